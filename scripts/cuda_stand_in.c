// A CUDA driver without a card, for scripts/check_cuda_kernels.sh: memory is the host's, kernels are compiled and loaded but not
// run. With it a program goes every way to the card but the last: it finds a device, hands each kernel to NVRTC, loads the
// result and launches it with its arguments. Results are therefore whatever was in memory: zeros.
//
// CUDA_STAND_IN_ARCH is the compute capability (default 90), CUDA_STAND_IN_PTX a folder for each kernel's PTX, and
// CUDA_STAND_IN_DRIVER the driver's CUDA version (default 13000): PTX of a newer one is refused, as the real one does.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result; // 0: success, 1: invalid value, 2: out of memory, 222: unsupported PTX version, 500: not found

struct Module {
    char *ptx;
};

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

Result cuInit(unsigned flags) { return flags; }
Result cuDriverGetVersion(int *version) { return *version = number("CUDA_STAND_IN_DRIVER", 13000), 0; }
Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal != 0; }
Result cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    return snprintf(name, (size_t)size, "stand-in for a card, sm_%d", number("CUDA_STAND_IN_ARCH", 90)), 0;
}
Result cuDeviceGetPCIBusId(char *id, int size, int device) {
    (void)device;
    return snprintf(id, (size_t)size, "0000:00:00.0"), 0;
}
Result cuDeviceGetUuid(char *uuid, int device) { return (void)device, memset(uuid, 7, 16), 0; }
Result cuDeviceGetUuid_v2(char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { return (void)device, *bytes = (size_t)80 << 30, 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    int arch = number("CUDA_STAND_IN_ARCH", 90);
    switch (attribute) {
    case 1: *value = 1024; break;                        // threads of a block
    case 2: case 3: *value = 1024; break;                // block dimensions
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;                  // grid dimensions
    case 6: case 7: *value = 65535; break;
    case 8: *value = 49152; break;                       // shared memory of a block
    case 10: *value = 32; break;                         // warp
    case 16: *value = 132; break;                        // multiprocessors
    case 75: *value = arch / 10; break;
    case 76: *value = arch % 10; break;
    case 81: case 97: *value = arch >= 90 ? 232448 : 166912; break; // shared memory, at most
    case 41: case 102: case 115: *value = 1; break;      // unified addresses, virtual memory, pools
    default: *value = 0;
    }
    return 0;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)(intptr_t)(device + 1), 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, 0; }
Result cuCtxSetCurrent(void *context) { return (void)context, 0; }
Result cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
Result cuCtxSynchronize(void) { return 0; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, 0; }

Result cuStreamCreate(void **stream, unsigned flags) { return (void)flags, *stream = malloc(1), 0; }
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    (void)priority;
    return cuStreamCreate(stream, flags);
}
Result cuStreamDestroy_v2(void *stream) { return free(stream), 0; }
Result cuStreamSynchronize(void *stream) { return (void)stream, 0; }
Result cuStreamQuery(void *stream) { return (void)stream, 0; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return (void)stream, (void)event, (void)flags, 0; }
Result cuStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = 0, 0; }
Result cuLaunchHostFunc(void *stream, void (*function)(void *), void *argument) { return (void)stream, function(argument), 0; }

Result cuEventCreate(void **event, unsigned flags) { return (void)flags, *event = malloc(1), 0; }
Result cuEventDestroy_v2(void *event) { return free(event), 0; }
Result cuEventRecord(void *event, void *stream) { return (void)event, (void)stream, 0; }
Result cuEventQuery(void *event) { return (void)event, 0; }
Result cuEventSynchronize(void *event) { return (void)event, 0; }
Result cuEventElapsedTime(float *milliseconds, void *a, void *b) { return (void)a, (void)b, *milliseconds = 1, 0; }
Result cuEventElapsedTime_v2(float *milliseconds, void *a, void *b) { return cuEventElapsedTime(milliseconds, a, b); }

// Pages that nobody touches cost nothing, so the sizes of the benchmarks fit.
Result cuMemAlloc_v2(uintptr_t *pointer, size_t bytes) {
    size_t rounded = (bytes + 511) / 512 * 512;
    void *memory = aligned_alloc(512, rounded ? rounded : 512);
    if (!memory) return 2;
    if (rounded <= (size_t)1 << 26) memset(memory, 0, rounded);
    return *pointer = (uintptr_t)memory, 0;
}
Result cuMemAllocAsync(uintptr_t *pointer, size_t bytes, void *stream) { return (void)stream, cuMemAlloc_v2(pointer, bytes); }
Result cuMemFree_v2(uintptr_t pointer) { return free((void *)pointer), 0; }
Result cuMemFreeAsync(uintptr_t pointer, void *stream) { return (void)stream, cuMemFree_v2(pointer); }
Result cuMemAllocHost_v2(void **pointer, size_t bytes) { return cuMemAlloc_v2((uintptr_t *)pointer, bytes); }
Result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) { return (void)flags, cuMemAllocHost_v2(pointer, bytes); }
Result cuMemFreeHost(void *pointer) { return free(pointer), 0; }
Result cuMemGetInfo_v2(size_t *unused, size_t *total) { return *unused = *total = (size_t)80 << 30, 0; }
Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream) {
    return (void)stream, memcpy((void *)to, from, bytes), 0;
}
Result cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *stream) {
    return (void)stream, memcpy(to, (const void *)from, bytes), 0;
}
Result cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *stream) {
    return (void)stream, memmove((void *)to, (const void *)from, bytes), 0;
}
Result cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void *stream) {
    return (void)stream, memset((void *)to, value, bytes), 0;
}

struct Copy2D {
    size_t from_x, from_y;
    int from_type;
    const char *from_host;
    uintptr_t from_device;
    void *from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    char *to_host;
    uintptr_t to_device;
    void *to_array;
    size_t to_pitch, width, height;
};
Result cuMemcpy2DAsync_v2(const struct Copy2D *copy, void *stream) {
    (void)stream;
    const char *from = copy->from_type == 1 ? copy->from_host : (const char *)copy->from_device;
    char *to = copy->to_type == 1 ? copy->to_host : (char *)copy->to_device;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(to + (copy->to_y + row) * copy->to_pitch + copy->to_x,
               from + (copy->from_y + row) * copy->from_pitch + copy->from_x, copy->width);
    return 0;
}

// PTX begins with comments and ".version 9.0"; CUDA 13.0 loads up to 9.0, 12.8 up to 8.7.
static int newest_ptx(int driver) {
    int major = driver / 1000, minor = driver % 1000 / 10;
    if (major >= 13) return 90 + minor;
    return 80 + (minor < 3 ? minor : minor == 3 ? 3 : minor == 9 ? 8 : minor == 8 ? 7 : minor);
}
Result cuModuleLoadData(struct Module **module, const char *ptx) {
    int major = 0, minor = 0;
    const char *version = strstr(ptx, ".version");
    if (!version || sscanf(version, ".version %d.%d", &major, &minor) != 2) return 1;
    int driver;
    cuDriverGetVersion(&driver);
    if (major * 10 + minor > newest_ptx(driver)) return 222;
    const char *folder = getenv("CUDA_STAND_IN_PTX");
    if (folder && *folder) {
        uint64_t hash = 1469598103934665603u;
        for (const char *c = ptx; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
        char name[4096];
        snprintf(name, sizeof name, "%s/%016llx.ptx", folder, (unsigned long long)hash);
        FILE *file = fopen(name, "w");
        if (!file) return 1;
        fputs(ptx, file);
        fclose(file);
    }
    *module = malloc(sizeof **module);
    (*module)->ptx = strdup(ptx);
    return 0;
}
Result cuModuleGetFunction(void **function, struct Module *module, const char *name) {
    char entry[4096];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    return *function = module, strstr(module->ptx, entry) ? 0 : 500;
}
Result cuModuleUnload(struct Module *module) { return (void)module, 0; }
Result cuFuncSetAttribute(void *function, int attribute, int value) { return (void)function, (void)attribute, value > 232448; }
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                      void *stream, void **arguments, void **extra) {
    (void)function, (void)shared, (void)stream, (void)arguments, (void)extra;
    // What the real driver refuses.
    return gx == 0 || gy == 0 || gz == 0 || gy > 65535 || gz > 65535 || (size_t)bx * by * bz == 0 || (size_t)bx * by * bz > 1024;
}

// NVRTC asks for tables that a driver need not have.
Result cuGetExportTable(const void **table, const void *id) { return (void)id, *table = NULL, 500; }

Result cuGetErrorName(Result error, const char **name) {
    *name = error == 0 ? "CUDA_SUCCESS" : error == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : "CUDA_ERROR_OF_THE_STAND_IN";
    return 0;
}
Result cuGetErrorString(Result error, const char **text) { return cuGetErrorName(error, text); }
