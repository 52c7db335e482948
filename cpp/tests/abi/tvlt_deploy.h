/* tvlt_deploy.h - answers of a TVLT bundle, from C and C++.
 *
 * Two libraries implement this header; a program links one of them:
 *   libtvlt_deploy          ONNX Runtime, which is loaded when a bundle is opened. No Python.
 *   libtvlt_deploy_python   the Python pipeline in an embedded interpreter: media files and every backend.
 *
 * Ownership  tvlt_open gives a session and the tvlt_run functions give a result; they belong to the caller, who gives
 *            them back with tvlt_close and tvlt_result_free (NULL is allowed). What is passed in is read during the
 *            call and never kept. What tvlt_result_get and tvlt_result_answer point to lives as long as the result,
 *            which may outlive its session.
 * Threads    Any number of threads may run one session at a time, without a lock. A session is closed by one thread,
 *            after every call on it has returned. A result may be read by several threads.
 * Errors     Every function that can fail gives a tvlt_status and sets its output pointer to NULL on failure.
 *            tvlt_last_error is the text of the calling thread's last call, until its next one.
 * Layout     struct_size is set to sizeof the struct by the caller, also in structs that a function fills. In arrays it
 *            is the same in every element. Fields that are not wanted are zero.
 */
#ifndef TVLT_DEPLOY_H
#define TVLT_DEPLOY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TVLT_API __attribute__((visibility("default")))
#else
#define TVLT_API
#endif

#define TVLT_ABI_VERSION 1

/* The exit codes of the tvlt-deploy command. */
typedef enum tvlt_status {
    TVLT_OK = 0,
    TVLT_INTERNAL = 1,    /* a fault of this library or of the engine */
    TVLT_USAGE = 2,       /* a call that cannot mean anything */
    TVLT_ENVIRONMENT = 4, /* the machine lacks something */
    TVLT_FILE = 5         /* a file that is corrupt, missing from its bundle, or refused */
} tvlt_status;

/* What a session is given: it opens the graph that takes it. Sessions of libtvlt_deploy_python take everything. */
typedef enum tvlt_input {
    TVLT_CLIPS = 0,  /* raw frames and sound: the bundle's fused graph */
    TVLT_TENSORS = 1 /* tensors that were prepared as the model's inputs */
} tvlt_input;

typedef struct tvlt_session tvlt_session;
typedef struct tvlt_result tvlt_result;

typedef struct tvlt_options {
    uint32_t struct_size;
    int32_t input;           /* tvlt_input */
    int32_t threads;         /* of the engine on the CPU; 0: all cores */
    const char *backend;     /* NULL: onnxruntime, the only one of libtvlt_deploy */
    const char *device;      /* cpu, cuda, cuda:N; NULL: cpu */
    const char *provider;    /* of ONNX Runtime, on a CUDA device: cuda, tensorrt, tensorrt-rtx; NULL: cuda.
                                libtvlt_deploy only. */
    const char *precision;   /* fp32, fp16, int8, ...; NULL: fp32, or what the backend `auto` chooses */
    const char *onnxruntime; /* the library's file; NULL: $TVLT_ONNXRUNTIME, else libonnxruntime.so.1 where the dynamic
                                loader looks. libtvlt_deploy only. */
    const char *python;      /* bin/python of a virtual environment with tvlt-deploy; NULL: $TVLT_PYTHON.
                                libtvlt_deploy_python only; the first session decides for the process. */
    const char *trust_engine; /* SHA-256 of a TensorRT engine that was not built on this machine: an engine is code.
                                 libtvlt_deploy_python only. */
} tvlt_options;

/* One clip as a service holds it. A part whose count is 0 is absent; the model answers from the other one. */
typedef struct tvlt_clip {
    uint32_t struct_size;
    int32_t sampling_rate;   /* Hz; the model's, 44100 */
    const uint8_t *frames;   /* RGB: frame_count x height x width x 3, strides in between */
    size_t frames_size;      /* bytes that may be read from `frames` */
    int64_t frame_count;
    int64_t height;          /* pixels */
    int64_t width;           /* pixels */
    int64_t frame_stride;    /* bytes from one frame to the next; 0: packed */
    int64_t row_stride;      /* bytes from one row of pixels to the next; 0: packed */
    const float *samples;    /* mono, within [-1, 1] */
    int64_t sample_count;
} tvlt_clip;

/* A row-major float32 array with a name: a graph input, or one output of one clip. */
typedef struct tvlt_tensor {
    uint32_t struct_size;
    uint32_t rank;
    const char *name;
    const int64_t *shape; /* `rank` sizes */
    const float *data;
    size_t size;          /* bytes that may be read from `data` */
} tvlt_tensor;

/* One media file, and a window of it. */
typedef struct tvlt_media {
    uint32_t struct_size;
    int32_t strict;    /* not 0: a file that can be read only in part is an error */
    const char *path;
    const char *audio; /* a file with the sound; NULL: the sound of `path`, if it has any */
    double start;      /* seconds */
    double duration;   /* seconds; 0: as much as the model takes */
} tvlt_media;

/* What the model says of one clip, for tasks with labels. */
typedef struct tvlt_answer {
    uint32_t struct_size;
    uint32_t label_count;
    const char *label;         /* the likeliest; for matching `match` or `mismatch`; for a regression whose signs have
                                  names, the name of this one */
    double score;              /* its probability; for regression the value itself */
    const char *const *labels; /* all of them, in the model's order */
    const double *scores;      /* one for each label */
} tvlt_answer;

/* TVLT_ABI_VERSION of the library. It changes when a program must be compiled again. */
TVLT_API uint32_t tvlt_abi_version(void);

/* Why the calling thread's last call failed; "" after success. UTF-8. */
TVLT_API const char *tvlt_last_error(void);

/* Open the bundle in directory `path`. Every file that is opened is compared with the manifest's SHA-256 first.
 * options: NULL for the defaults. */
TVLT_API tvlt_status tvlt_open(const char *path, const tvlt_options *options, tvlt_session **session);

/* Answer `count` clips. libtvlt_deploy runs one after the other, so that an answer does not depend on its company;
 * libtvlt_deploy_python puts clips of similar size into one batch, which may change an answer's last digits. */
TVLT_API tvlt_status tvlt_run(tvlt_session *session, const tvlt_clip *clips, size_t count, tvlt_result **result);

/* Answer a batch of clips from the model's inputs, all of them, in any order. */
TVLT_API tvlt_status tvlt_run_tensors(tvlt_session *session, const tvlt_tensor *inputs, size_t count,
                                      tvlt_result **result);

/* Answer `count` media files. libtvlt_deploy_python only. */
TVLT_API tvlt_status tvlt_run_media(tvlt_session *session, const tvlt_media *media, size_t count, tvlt_result **result);

/* An output of one clip, without the batch axis. name: NULL for the task's first output. Outputs per token of raw clips
 * have the tokens of parts that are there only: of an absent part a shape with a 0, size 0, and data that may be NULL. */
TVLT_API tvlt_status tvlt_result_get(const tvlt_result *result, size_t clip, const char *name, tvlt_tensor *output);

/* The labels and scores of one clip. TVLT_USAGE for tasks without labels. */
TVLT_API tvlt_status tvlt_result_answer(const tvlt_result *result, size_t clip, tvlt_answer *answer);

TVLT_API void tvlt_result_free(tvlt_result *result);

TVLT_API void tvlt_close(tvlt_session *session);

#ifdef __cplusplus
}
#endif

#endif
