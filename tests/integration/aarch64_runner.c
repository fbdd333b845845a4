/* Calls one function of a compiled library, with nothing but TVM's runtime: no Python, no C++.
 *
 *   aarch64_runner LIBRARY FUNCTION in:DTYPE:SHAPE:FILE … out:FILE …
 *
 * Inputs are raw little-endian files, SHAPE is like 1x3x48x192; outputs are written as .npy files,
 * in the order in which the function returns them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tvm/ffi/c_api.h>

enum { MAX_ARGUMENTS = 4096, MAX_DIMENSIONS = 8, ALIGNMENT = 64 };
enum { NPY_HEADER_NBYTES = 256 };
enum { CPU = 1, POOLED_ALLOCATOR = 2 };

static void *content_of(TVMFFIObjectHandle object) {
  return (char *)object + sizeof(TVMFFIObject);
}

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "aarch64_runner: %s: %s\n", what, detail);
  exit(1);
}

static void check(int status, const char *what) {
  if (status == 0) return;
  TVMFFIObjectHandle error;
  TVMFFIErrorMoveFromRaised(&error);
  TVMFFIErrorCell *cell = content_of(error);
  fail(what, cell->message.data);
}

static TVMFFIByteArray bytes_of(const char *text) {
  return (TVMFFIByteArray){.data = text, .size = strlen(text)};
}

static TVMFFIAny text_value(const char *text) {
  return (TVMFFIAny){.type_index = kTVMFFIRawStr, .v_c_str = text};
}

static TVMFFIAny integer_value(int64_t value) {
  return (TVMFFIAny){.type_index = kTVMFFIInt, .v_int64 = value};
}

static TVMFFIAny boolean_value(int value) {
  return (TVMFFIAny){.type_index = kTVMFFIBool, .v_int64 = value};
}

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count,
                      const char *name) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  check(TVMFFIFunctionCall(function, arguments, count, &result), name);
  return result;
}

static TVMFFIAny call_global(const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIByteArray key = bytes_of(name);
  TVMFFIObjectHandle function = NULL;
  check(TVMFFIFunctionGetGlobal(&key, &function), name);
  if (function == NULL) fail("the runtime has no function", name);
  return call(function, arguments, count, name);
}

static TVMFFIAny call_member(TVMFFIAny module, const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIAny query[] = {module, text_value(name), boolean_value(1)};
  TVMFFIAny function = call_global("ffi.ModuleGetFunction", query, 3);
  if (function.type_index != kTVMFFIFunction) fail("the library has no function", name);
  return call(function.v_obj, arguments, count, name);
}

static TVMFFIAny load_machine(const char *library) {
  TVMFFIAny path = text_value(library);
  TVMFFIAny module = call_global("ffi.ModuleLoadFromFile", &path, 1);
  TVMFFIAny machine = call_member(module, "vm_load_executable", NULL, 0);
  TVMFFIAny device[] = {integer_value(CPU), integer_value(0), integer_value(POOLED_ALLOCATOR)};
  call_member(machine, "vm_initialization", device, 3);
  return machine;
}

static size_t nbytes_of(const DLTensor *tensor) {
  size_t nbytes = tensor->dtype.bits * tensor->dtype.lanes / 8;
  for (int i = 0; i < tensor->ndim; ++i) nbytes *= (size_t)tensor->shape[i];
  return nbytes;
}

static int parse_shape(char *text, int64_t *shape) {
  int ndim = 0;
  for (char *size = strtok(text, "x"); size != NULL; size = strtok(NULL, "x")) {
    if (ndim == MAX_DIMENSIONS) fail("too many dimensions", text);
    shape[ndim++] = atoll(size);
  }
  return ndim;
}

static void read_file(const char *path, void *data, size_t nbytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail("cannot open", path);
  if (fread(data, 1, nbytes, file) != nbytes || fgetc(file) != EOF) {
    fail("the file's size does not fit the shape", path);
  }
  fclose(file);
}

/* Takes "DTYPE:SHAPE:FILE" apart. What it allocates lives as long as the process. */
static TVMFFIAny read_tensor(char *description) {
  char *dtype = description;
  char *shape = strchr(dtype, ':');
  char *path = shape == NULL ? NULL : strchr(shape + 1, ':');
  if (path == NULL) fail("an input is in:DTYPE:SHAPE:FILE, not", description);
  *shape++ = *path++ = '\0';

  DLManagedTensor *managed = calloc(1, sizeof *managed);
  DLTensor *tensor = &managed->dl_tensor;
  TVMFFIByteArray dtype_name = bytes_of(dtype);
  check(TVMFFIDataTypeFromString(&dtype_name, &tensor->dtype), dtype);
  tensor->device = (DLDevice){kDLCPU, 0};
  tensor->shape = calloc(MAX_DIMENSIONS, sizeof *tensor->shape);
  tensor->ndim = parse_shape(shape, tensor->shape);
  size_t nbytes = nbytes_of(tensor);
  tensor->data = aligned_alloc(ALIGNMENT, (nbytes / ALIGNMENT + 1) * ALIGNMENT);
  if (tensor->data == NULL) fail("out of memory", path);
  read_file(path, tensor->data, nbytes);

  TVMFFIAny value = {.type_index = kTVMFFITensor};
  check(TVMFFITensorFromDLPack(managed, ALIGNMENT, 1, &value.v_ptr), path);
  return value;
}

static char npy_kind(const DLTensor *tensor, const char *path) {
  switch (tensor->dtype.code) {
    case kDLInt: return 'i';
    case kDLUInt: return 'u';
    case kDLFloat: return 'f';
    case kDLBool: return 'b';
  }
  fail("NumPy has no such dtype", path);
  return 0;
}

/* The format's version 1.0: magic, version, length of the text, text, padding, line feed. */
static void npy_header(const DLTensor *tensor, const char *path, char *header) {
  memset(header, ' ', NPY_HEADER_NBYTES);
  memcpy(header, "\x93NUMPY\x01\x00", 8);
  header[8] = (char)(NPY_HEADER_NBYTES - 10);
  header[9] = 0;
  char *end = header + 10;
  end += sprintf(end, "{'descr': '<%c%d', 'fortran_order': False, 'shape': (",
                 npy_kind(tensor, path), tensor->dtype.bits / 8);
  if (tensor->ndim > MAX_DIMENSIONS) fail("too many dimensions", path);
  for (int i = 0; i < tensor->ndim; ++i) end += sprintf(end, "%lld,", (long long)tensor->shape[i]);
  end += sprintf(end, ")}");
  *end = ' ';
  header[NPY_HEADER_NBYTES - 1] = '\n';
}

static void write_tensor(TVMFFIAny value, const char *path) {
  if (value.type_index != kTVMFFITensor) fail("an output is not a tensor", path);
  DLTensor *tensor = content_of(value.v_obj);
  char header[NPY_HEADER_NBYTES];
  npy_header(tensor, path, header);
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail("cannot open", path);
  if (fwrite(header, 1, sizeof header, file) != sizeof header) fail("cannot write", path);
  size_t nbytes = nbytes_of(tensor);
  const char *data = (const char *)tensor->data + tensor->byte_offset;
  if (fwrite(data, 1, nbytes, file) != nbytes || fclose(file) != 0) fail("cannot write", path);
}

int main(int argc, char **argv) {
  if (argc < 3) fail("usage", "LIBRARY FUNCTION in:DTYPE:SHAPE:FILE … out:FILE …");
  TVMFFIAny inputs[MAX_ARGUMENTS];
  const char *outputs[MAX_ARGUMENTS];
  int input_count = 0, output_count = 0;
  for (int i = 3; i < argc; ++i) {
    if (input_count == MAX_ARGUMENTS || output_count == MAX_ARGUMENTS) fail("too many", argv[i]);
    if (strncmp(argv[i], "in:", 3) == 0) {
      inputs[input_count++] = read_tensor(argv[i] + 3);
    } else if (strncmp(argv[i], "out:", 4) == 0) {
      outputs[output_count++] = argv[i] + 4;
    } else {
      fail("neither in: nor out:", argv[i]);
    }
  }
  TVMFFIAny tuple = call_member(load_machine(argv[1]), argv[2], inputs, input_count);
  if (tuple.type_index != kTVMFFIArray) fail("did not return a tuple", argv[2]);
  int64_t returned = call_global("ffi.ArraySize", &tuple, 1).v_int64;
  if (returned != output_count) fail("returned another number of outputs", argv[2]);
  for (int i = 0; i < output_count; ++i) {
    TVMFFIAny item[] = {tuple, integer_value(i)};
    write_tensor(call_global("ffi.ArrayGetItem", item, 2), outputs[i]);
  }
  return 0;
}
