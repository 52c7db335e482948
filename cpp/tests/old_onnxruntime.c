/* The functions of ONNX Runtime 1.16.3 that a program built with newer headers calls first. */
#include <onnxruntime_c_api.h>
#include <stddef.h>

static const OrtApi *get_api(uint32_t version) {
    (void)version;
    return NULL;
}

static const char *get_version(void) { return "1.16.3"; }

const OrtApiBase *OrtGetApiBase(void);

__attribute__((visibility("default"))) const OrtApiBase *OrtGetApiBase(void) {
    static const OrtApiBase base = {get_api, get_version};
    return &base;
}
