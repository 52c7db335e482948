/**
 * @file tvlt_deploy.h
 * Run a TVLT bundle from C and C++.
 *
 * Two libraries implement this header; a program links one of them:
 *   libtvlt_deploy          ONNX Runtime, which is loaded when a bundle is opened. No Python.
 *   libtvlt_deploy_python   the Python pipeline in an embedded interpreter: media files and every backend.
 *
 * Ownership  tvlt_open returns a session and the tvlt_run functions return a result. Both belong to the caller, who
 *            releases them with tvlt_close and tvlt_result_free (NULL is allowed). Arguments are read during the call
 *            and never kept. Pointers from tvlt_result_get and tvlt_result_answer are valid until the result is freed;
 *            a result may outlive its session. Pointers from the tvlt_session functions are valid until the session is
 *            closed.
 * Threads    Any number of threads may run one session at the same time, without a lock. One thread closes a session,
 *            after every call on it has returned. Several threads may read one result.
 * Errors     Functions that can fail return a tvlt_status, and set an output pointer to NULL on failure.
 *            tvlt_last_error is the message of the calling thread's last call, until its next call.
 * Structs    The caller sets struct_size to sizeof the struct, also in structs that a function fills, and unused fields
 *            to zero. In an array every element has the same struct_size.
 * Versions   TVLT_ABI_VERSION stays 1 as long as programs that were built with an earlier header keep working. Later
 *            releases add functions, enum values, and fields at the end of structs; struct_size states which fields the
 *            caller has. Fields that a smaller struct does not have are read as zero, and a function fills no more than
 *            struct_size bytes. A struct larger than the library's is accepted if the fields that the library does not
 *            have are zero; in a struct that a function fills it sets them to zero.
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

/** Version of the binary interface; changes only when programs must be compiled again. */
#define TVLT_ABI_VERSION 1

/** Result of a call. The values are the exit codes of the tvlt-deploy command. */
typedef enum tvlt_status {
    TVLT_OK = 0,
    TVLT_INTERNAL = 1,    /**< an error inside this library or the engine */
    TVLT_USAGE = 2,       /**< an invalid argument or call */
    TVLT_ENVIRONMENT = 4, /**< something is missing on this machine */
    TVLT_FILE = 5         /**< a file is corrupt, missing from its bundle, or refused */
} tvlt_status;

/** Input of a session, which decides which graph it opens. Sessions of libtvlt_deploy_python accept both kinds. */
typedef enum tvlt_input {
    TVLT_CLIPS = 0,  /**< raw frames and sound: the bundle's fused graph */
    TVLT_TENSORS = 1 /**< prepared tensors, the model's inputs */
} tvlt_input;

/** Type of the values of a tensor. */
typedef enum tvlt_dtype { TVLT_FLOAT32 = 1, TVLT_UINT8 = 2 } tvlt_dtype;

/** An open bundle. */
typedef struct tvlt_session tvlt_session;
/** Outputs of one call. */
typedef struct tvlt_result tvlt_result;

/** How to open a bundle. */
typedef struct tvlt_options {
    uint32_t struct_size;     /**< sizeof(tvlt_options) */
    int32_t input;            /**< a tvlt_input */
    int32_t threads;          /**< CPU threads of the engine; 0: all cores */
    const char *backend;      /**< NULL: onnxruntime, the only one of libtvlt_deploy */
    const char *device;       /**< cpu, cuda or cuda:N; NULL: cpu */
    const char *provider;     /**< execution provider of ONNX Runtime on a CUDA device: cuda, tensorrt or tensorrt-rtx;
                                   NULL: cuda. libtvlt_deploy only. */
    const char *precision;    /**< fp32, fp16, int8, ...; NULL: fp32, or the choice of the backend `auto` */
    const char *onnxruntime;  /**< file of the ONNX Runtime library; NULL: $TVLT_ONNXRUNTIME, else libonnxruntime.so.1
                                   from the dynamic loader's path. libtvlt_deploy only. */
    const char *python;       /**< bin/python of a virtual environment with tvlt-deploy; NULL: $TVLT_PYTHON. The first
                                   session of a process sets it for all. libtvlt_deploy_python only. */
    const char *trust_engine; /**< SHA-256 of a TensorRT engine that was not built on this machine: an engine is code.
                                   libtvlt_deploy_python only. */
} tvlt_options;

/** One raw clip. A part with count 0 is absent; the model then runs on the other part. */
typedef struct tvlt_clip {
    uint32_t struct_size;  /**< sizeof(tvlt_clip) */
    int32_t sampling_rate; /**< Hz; must be the model's, 44100 */
    const uint8_t *frames; /**< RGB, frame_count x height x width x 3, with the strides below */
    size_t frames_size;    /**< bytes that may be read from `frames` */
    int64_t frame_count;   /**< 0: no frames */
    int64_t height;        /**< pixels */
    int64_t width;         /**< pixels */
    int64_t frame_stride;  /**< bytes from one frame to the next; 0: packed */
    int64_t row_stride;    /**< bytes from one row of pixels to the next; 0: packed */
    const float *samples;  /**< mono, in [-1, 1] */
    int64_t sample_count;  /**< 0: no sound */
} tvlt_clip;

/** A row-major float32 array with a name: a graph input, or one output of one clip. */
typedef struct tvlt_tensor {
    uint32_t struct_size; /**< sizeof(tvlt_tensor) */
    uint32_t rank;        /**< number of axes */
    const char *name;     /**< name of the graph input or output */
    const int64_t *shape; /**< `rank` sizes */
    const float *data;    /**< the values */
    size_t size;          /**< bytes that may be read from `data` */
} tvlt_tensor;

/** A window of one media file. */
typedef struct tvlt_media {
    uint32_t struct_size; /**< sizeof(tvlt_media) */
    int32_t strict;       /**< not 0: a file that can be read only in part is an error */
    const char *path;     /**< the media file */
    const char *audio;    /**< a file with the sound; NULL: the sound of `path`, if it has any */
    double start;         /**< seconds */
    double duration;      /**< seconds; 0: the longest that the model accepts */
} tvlt_media;

/** Label and scores of one clip, for tasks with labels. */
typedef struct tvlt_answer {
    uint32_t struct_size;      /**< sizeof(tvlt_answer) */
    uint32_t label_count;      /**< length of `labels` and `scores` */
    const char *label;         /**< the label with the highest score; for matching `match` or `mismatch`; for a
                                    regression whose signs have names, the name of this sign */
    double score;              /**< probability of the label; for regression the value itself */
    const char *const *labels; /**< all labels, in the model's order */
    const double *scores;      /**< one for each label */
} tvlt_answer;

/** Name, shape and type of an input or output of a session. */
typedef struct tvlt_tensor_info {
    uint32_t struct_size; /**< sizeof(tvlt_tensor_info) */
    uint32_t rank;        /**< number of axes */
    const char *name;     /**< name of the input or output */
    const int64_t *shape; /**< `rank` sizes; -1: the size may differ from call to call */
    int32_t dtype;        /**< a tvlt_dtype */
    int32_t reserved;     /**< 0 */
} tvlt_tensor_info;

/**
 * TVLT_ABI_VERSION of the library.
 *
 * @return the version that the library was built with; compare it with the header's
 */
TVLT_API uint32_t tvlt_abi_version(void);

/**
 * Release of the library, the same as of the Python package.
 *
 * @return a text such as "0.2.0"; never NULL, valid for the life of the process
 */
TVLT_API const char *tvlt_version(void);

/**
 * Why the calling thread's last call failed.
 *
 * @return the message in UTF-8, "" after a successful call; valid until the thread's next call
 */
TVLT_API const char *tvlt_last_error(void);

/**
 * Open a bundle. The size and SHA-256 of every graph file are compared with the manifest before the file is opened.
 *
 * @param path     directory of the bundle
 * @param options  NULL for the defaults
 * @param session  receives the session; release it with tvlt_close
 * @return TVLT_OK, or TVLT_FILE for a bundle that is refused, TVLT_USAGE for invalid options or a graph that the bundle
 *         does not have, TVLT_ENVIRONMENT for a missing library, provider or Python environment
 */
TVLT_API tvlt_status tvlt_open(const char *path, const tvlt_options *options, tvlt_session **session);

/**
 * Number of inputs of a session: those of the fused graph for TVLT_CLIPS (`frames`, `waveform`), else the model's.
 *
 * @param session  an open session
 * @return the number; 0 with an error message if `session` is NULL
 */
TVLT_API size_t tvlt_session_input_count(const tvlt_session *session);

/**
 * Describe one input of a session.
 *
 * @param session  an open session
 * @param index    0 to tvlt_session_input_count - 1, in the order of the graph
 * @param info     struct to fill; the batch axis is included
 * @return TVLT_OK or TVLT_USAGE
 */
TVLT_API tvlt_status tvlt_session_input(const tvlt_session *session, size_t index, tvlt_tensor_info *info);

/**
 * Number of outputs of a session.
 *
 * @param session  an open session
 * @return the number; 0 with an error message if `session` is NULL
 */
TVLT_API size_t tvlt_session_output_count(const tvlt_session *session);

/**
 * Describe one output of a session.
 *
 * @param session  an open session
 * @param index    0 to tvlt_session_output_count - 1; 0 is the output that tvlt_result_get returns by default
 * @param info     struct to fill; the shape is that of one clip, as from tvlt_result_get, without the batch axis
 * @return TVLT_OK or TVLT_USAGE
 */
TVLT_API tvlt_status tvlt_session_output(const tvlt_session *session, size_t index, tvlt_tensor_info *info);

/**
 * Number of labels of a session's answers.
 *
 * @param session  an open session
 * @return the number; 0 for tasks without labels, and with an error message if `session` is NULL
 */
TVLT_API size_t tvlt_session_label_count(const tvlt_session *session);

/**
 * Name of one label.
 *
 * @param session  an open session
 * @param index    0 to tvlt_session_label_count - 1, in the order of tvlt_answer.labels
 * @return the name; NULL with an error message for an index that is out of range
 */
TVLT_API const char *tvlt_session_label(const tvlt_session *session, size_t index);

/**
 * Run raw clips. libtvlt_deploy runs them one by one, so that a result does not depend on the other clips in the call.
 * libtvlt_deploy_python batches clips of similar size, which may change the last digits of a result.
 *
 * @param session  a session opened with TVLT_CLIPS
 * @param clips    array of `count` clips
 * @param count    at least 1
 * @param result   receives the outputs of every clip; release it with tvlt_result_free
 * @return TVLT_OK, or TVLT_USAGE for clips that are refused
 */
TVLT_API tvlt_status tvlt_run(tvlt_session *session, const tvlt_clip *clips, size_t count, tvlt_result **result);

/**
 * Run one batch of prepared tensors.
 *
 * @param session  a session opened with TVLT_TENSORS
 * @param inputs   every input of the model, in any order; they have one batch size
 * @param count    number of inputs
 * @param result   receives the outputs of every clip of the batch; release it with tvlt_result_free
 * @return TVLT_OK, or TVLT_USAGE for tensors that are refused
 */
TVLT_API tvlt_status tvlt_run_tensors(tvlt_session *session, const tvlt_tensor *inputs, size_t count,
                                      tvlt_result **result);

/**
 * Decode and run media files. libtvlt_deploy_python only.
 *
 * @param session  an open session
 * @param media    array of `count` files
 * @param count    at least 1
 * @param result   receives the outputs of every file; release it with tvlt_result_free
 * @return TVLT_OK, or TVLT_FILE for a file that cannot be read, TVLT_ENVIRONMENT from libtvlt_deploy
 */
TVLT_API tvlt_status tvlt_run_media(tvlt_session *session, const tvlt_media *media, size_t count, tvlt_result **result);

/**
 * Read one output of one clip. Outputs per token of raw clips have only the tokens of parts that are present: for an
 * absent part the shape contains a 0, the size is 0, and data may be NULL.
 *
 * @param result  the result of a run
 * @param clip    index of the clip
 * @param name    name of the output; NULL for the first one
 * @param output  struct to fill; the shape is without the batch axis
 * @return TVLT_OK or TVLT_USAGE
 */
TVLT_API tvlt_status tvlt_result_get(const tvlt_result *result, size_t clip, const char *name, tvlt_tensor *output);

/**
 * Read the label and scores of one clip.
 *
 * @param result  the result of a run
 * @param clip    index of the clip
 * @param answer  struct to fill
 * @return TVLT_OK, or TVLT_USAGE, also for tasks without labels
 */
TVLT_API tvlt_status tvlt_result_answer(const tvlt_result *result, size_t clip, tvlt_answer *answer);

/**
 * Release a result.
 *
 * @param result  NULL is allowed
 */
TVLT_API void tvlt_result_free(tvlt_result *result);

/**
 * Close a session, after every call on it has returned.
 *
 * @param session  NULL is allowed
 */
TVLT_API void tvlt_close(tvlt_session *session);

#ifdef __cplusplus
}
#endif

#endif
