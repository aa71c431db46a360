// A CUDA driver that does nothing: memory is the host's, launches compute nothing, and any call fails when STUB_FAIL names it.
// It exports the functions that src/backend/cuda/real/library.rs lists, and no others.
//
// STUB_FAIL    a function that fails with code STUB_CODE, each time it is called
// STUB_REFUSE  a driver that takes no cubins
// STUB_GPU     compute capability, 90 if nothing is said
// STUB_LOG     a file to which the names of the calls are written; loads say what was loaded
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void note(const char* name) {
    const char* path = getenv("STUB_LOG");
    FILE* log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s\n", name);
        fclose(log);
    }
}

static int called(const char* name) {
    note(name);
    const char* fails = getenv("STUB_FAIL");
    return fails && strcmp(fails, name) == 0 ? number("STUB_CODE", 1) : 0;
}

// A function of the driver that does what BODY says, unless it is to fail.
#define CALL(name, parameters, body)      \
    int name parameters {                 \
        int failed = called(#name);       \
        if (failed) return failed;        \
        body;                             \
        return 0;                         \
    }

static void* const HANDLE = (void*)64;
static _Thread_local void* current;

int cuGetErrorString(int code, const char** text) {
    static _Thread_local char words[64];
    if (called("cuGetErrorString")) return 1;
    snprintf(words, sizeof words, "words of the driver on %d", code);
    *text = words;
    return 0;
}

int cuGetErrorName(int code, const char** text) {
    static _Thread_local char name[64];
    if (called("cuGetErrorName")) return 1;
    snprintf(name, sizeof name, "CUDA_ERROR_%d", code);
    *text = name;
    return 0;
}

CALL(cuInit, (unsigned flags), (void)flags)
CALL(cuDriverGetVersion, (int* version), *version = number("STUB_VERSION", 12040))
CALL(cuDeviceGetCount, (int* count), *count = number("STUB_COUNT", 1))
CALL(cuDeviceGet, (int* device, int index), *device = index)
CALL(cuDeviceGetName, (char* name, int size, int device), (void)device; snprintf(name, size, "Stub"))
CALL(cuDevicePrimaryCtxRetain, (void** context, int device), (void)device; *context = HANDLE)
CALL(cuDevicePrimaryCtxRelease_v2, (int device), (void)device)
CALL(cuDeviceGetAttribute, (int* value, int attribute, int device), {
    int gpu = number("STUB_GPU", 90);
    (void)device;
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR, _MULTIPROCESSOR_COUNT
    *value = attribute == 75 ? gpu / 10 : attribute == 76 ? gpu % 10 : attribute == 16 ? 132 : 0;
})
CALL(cuCtxGetCurrent, (void** context), *context = current)
CALL(cuCtxSetCurrent, (void* context), current = context)
CALL(cuCtxSynchronize, (void), )
CALL(cuMemGetInfo_v2, (size_t* free, size_t* all), *free = *all = (size_t)8 << 30)

CALL(cuMemAlloc_v2, (uint64_t* at, size_t bytes), *at = (uint64_t)aligned_alloc(512, (bytes + 511) / 512 * 512); memset((void*)*at, 0, bytes))
CALL(cuMemFree_v2, (uint64_t at), free((void*)at))
CALL(cuMemHostAlloc, (void** at, size_t bytes, unsigned flags), (void)flags; *at = malloc(bytes))
CALL(cuMemFreeHost, (void* at), free(at))
CALL(cuMemcpyHtoDAsync_v2, (uint64_t to, const void* from, size_t bytes, void* stream), (void)stream; memcpy((void*)to, from, bytes))
CALL(cuMemcpyDtoHAsync_v2, (void* to, uint64_t from, size_t bytes, void* stream), (void)stream; memcpy(to, (void*)from, bytes))

CALL(cuStreamCreate, (void** stream, unsigned flags), (void)flags; *stream = HANDLE)
CALL(cuStreamDestroy_v2, (void* stream), (void)stream)
CALL(cuStreamSynchronize, (void* stream), (void)stream)
CALL(cuStreamWaitEvent, (void* stream, void* event, unsigned flags), (void)stream; (void)event; (void)flags)
CALL(cuStreamBeginCapture_v2, (void* stream, int mode), (void)stream; (void)mode)
CALL(cuStreamEndCapture, (void* stream, void** graph), (void)stream; *graph = HANDLE)
CALL(cuEventCreate, (void** event, unsigned flags), (void)flags; *event = HANDLE)
CALL(cuEventDestroy_v2, (void* event), (void)event)
CALL(cuEventRecord, (void* event, void* stream), (void)event; (void)stream)
CALL(cuEventQuery, (void* event), (void)event)
CALL(cuEventSynchronize, (void* event), (void)event)
CALL(cuEventElapsedTime, (float* ms, void* start, void* end), (void)start; (void)end; *ms = 0.5f)

int cuModuleLoadData(void** module, const void* image) {
    int failed = called("cuModuleLoadData");
    int cubin = memcmp(image, "\177ELF", 4) == 0;
    note(cubin ? "cubin" : "ptx");
    if (!failed && cubin && getenv("STUB_REFUSE")) failed = 200; // CUDA_ERROR_INVALID_IMAGE
    *module = HANDLE;
    return failed;
}
CALL(cuModuleUnload, (void* module), (void)module)
CALL(cuModuleGetFunction, (void** function, void* module, const char* name), (void)module; note(name); *function = HANDLE)
CALL(cuFuncSetAttribute, (void* function, int attribute, int value), (void)function; (void)attribute; (void)value)
CALL(cuLaunchKernelEx, (const void* config, void* function, void** arguments, void** extra), (void)config; (void)function; (void)arguments; (void)extra)
CALL(cuGraphInstantiateWithFlags, (void** exec, void* graph, uint64_t flags), (void)graph; (void)flags; *exec = HANDLE)
CALL(cuGraphUpload, (void* exec, void* stream), (void)exec; (void)stream)
CALL(cuGraphLaunch, (void* exec, void* stream), (void)exec; (void)stream)
CALL(cuGraphExecDestroy, (void* exec), (void)exec)
CALL(cuGraphDestroy, (void* graph), (void)graph)
CALL(cuTensorMapEncodeTiled, (void* map, int type, unsigned rank, void* at, const uint64_t* extent, const uint64_t* stride,
    const unsigned* tile, const unsigned* steps, int interleave, int swizzle, int promotion, int fill),
    (void)map; (void)type; (void)rank; (void)at; (void)extent; (void)stride; (void)tile; (void)steps; (void)interleave;
    (void)swizzle; (void)promotion; (void)fill)
