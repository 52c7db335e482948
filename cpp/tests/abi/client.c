/* A program of the first release: it is compiled with the header beside it, which never changes.
 *
 * Usage: client BUNDLE LIBRARY PYTHON. BUNDLE is the classification bundle of the tests, with its fused graph; LIBRARY
 * is ONNX Runtime, PYTHON an environment for libtvlt_deploy_python; "" where the library does not use it. Prints ok.
 */
#include "tvlt_deploy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, tvlt_last_error()); \
            return 1;                                                                      \
        }                                                                                  \
    } while (0)

enum { FRAMES = 2, SIDE = 40, SAMPLES = 9000, ROWS = 32, BINS = 32, CLIPS = 2 };

static uint8_t frames[FRAMES * SIDE * SIDE * 3];
static float samples[SAMPLES];
static float pixels[3 * 32 * 32], sound[ROWS * BINS], mask[8];

static tvlt_session *open_bundle(char **arguments, int32_t input) {
    tvlt_session *session = NULL;
    tvlt_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.input = input;
    options.threads = 2;
    if (*arguments[2] != '\0') options.onnxruntime = arguments[2];
    if (*arguments[3] != '\0') options.python = arguments[3];
    if (tvlt_open(arguments[1], &options, &session) != TVLT_OK) fprintf(stderr, "%s\n", tvlt_last_error());
    return session;
}

/* The struct of the first release ends here: what follows it must stay untouched. */
typedef struct guarded_answer {
    tvlt_answer answer;
    uint64_t guard;
} guarded_answer;

typedef struct guarded_tensor {
    tvlt_tensor tensor;
    uint64_t guard;
} guarded_tensor;

static int check_result(const tvlt_result *result, size_t clip) {
    guarded_tensor output;
    guarded_answer answer;
    double total = 0;
    uint32_t label;
    memset(&output, 0, sizeof output);
    memset(&answer, 0, sizeof answer);
    output.guard = answer.guard = 0x5555555555555555;
    output.tensor.struct_size = sizeof output.tensor;
    answer.answer.struct_size = sizeof answer.answer;
    CHECK(tvlt_result_get(result, clip, "logits", &output.tensor) == TVLT_OK);
    CHECK(output.tensor.struct_size == sizeof output.tensor && output.guard == 0x5555555555555555);
    CHECK(output.tensor.rank == 1 && output.tensor.shape[0] == 2 && output.tensor.size == 2 * sizeof(float));
    CHECK(strcmp(output.tensor.name, "logits") == 0 && isfinite(output.tensor.data[1]));
    CHECK(tvlt_result_answer(result, clip, &answer.answer) == TVLT_OK);
    CHECK(answer.answer.struct_size == sizeof answer.answer && answer.guard == 0x5555555555555555);
    CHECK(answer.answer.label_count == 2 && strcmp(answer.answer.labels[0], "LABEL_0") == 0);
    for (label = 0; label < answer.answer.label_count; ++label) total += answer.answer.scores[label];
    CHECK(fabs(total - 1) < 1e-6);
    CHECK(answer.answer.score >= 0.5 && strncmp(answer.answer.label, "LABEL_", 6) == 0);
    return 0;
}

static int run_clips(char **arguments) {
    tvlt_session *session = open_bundle(arguments, TVLT_CLIPS);
    tvlt_result *result = NULL;
    tvlt_clip clips[CLIPS];
    size_t clip;
    CHECK(session != NULL);
    memset(clips, 0, sizeof clips);
    for (clip = 0; clip < CLIPS; ++clip) {
        clips[clip].struct_size = sizeof clips[clip];
        clips[clip].sampling_rate = 44100;
        clips[clip].samples = samples;
        clips[clip].sample_count = SAMPLES;
    }
    clips[0].frames = frames;
    clips[0].frames_size = sizeof frames;
    clips[0].frame_count = FRAMES;
    clips[0].height = clips[0].width = SIDE;
    CHECK(tvlt_run(session, clips, CLIPS, &result) == TVLT_OK);
    for (clip = 0; clip < CLIPS; ++clip)
        if (check_result(result, clip) != 0) return 1;
    tvlt_result_free(result);
    clips[1].sampling_rate = 8000;
    CHECK(tvlt_run(session, clips, CLIPS, &result) == TVLT_USAGE && result == NULL);
    CHECK(strstr(tvlt_last_error(), "sampling_rate is 8000") != NULL);
    tvlt_close(session);
    return 0;
}

static void put(tvlt_tensor *tensor, const char *name, const int64_t *shape, uint32_t rank, const float *data,
                size_t size) {
    memset(tensor, 0, sizeof *tensor);
    tensor->struct_size = sizeof *tensor;
    tensor->rank = rank;
    tensor->name = name;
    tensor->shape = shape;
    tensor->data = data;
    tensor->size = size;
}

static int run_tensors(char **arguments) {
    static const int64_t pixels_shape[] = {1, 1, 3, 32, 32}, sound_shape[] = {1, 1, ROWS, BINS}, mask_shape[] = {1, 4};
    tvlt_session *session = open_bundle(arguments, TVLT_TENSORS);
    tvlt_result *result = NULL;
    tvlt_tensor inputs[4];
    CHECK(session != NULL);
    put(&inputs[0], "pixel_values", pixels_shape, 5, pixels, sizeof pixels);
    put(&inputs[1], "audio_values", sound_shape, 4, sound, sizeof sound);
    put(&inputs[2], "pixel_mask", mask_shape, 2, mask, 4 * sizeof(float));
    put(&inputs[3], "audio_mask", mask_shape, 2, mask, 4 * sizeof(float));
    CHECK(tvlt_run_tensors(session, inputs, 4, &result) == TVLT_OK);
    tvlt_close(session);
    if (check_result(result, 0) != 0) return 1;
    tvlt_result_free(result);
    return 0;
}

int main(int count, char **arguments) {
    size_t index;
    if (count != 4) return 2;
    for (index = 0; index < sizeof frames; ++index) frames[index] = (uint8_t)(index * 7);
    for (index = 0; index < SAMPLES; ++index) samples[index] = (float)(index % 100) / 500.0F;
    for (index = 0; index < sizeof pixels / sizeof *pixels; ++index) pixels[index] = (float)(index % 17) / 17.0F;
    for (index = 0; index < sizeof sound / sizeof *sound; ++index) sound[index] = (float)(index % 13) / 13.0F;
    for (index = 0; index < sizeof mask / sizeof *mask; ++index) mask[index] = 1;
    if (tvlt_abi_version() != TVLT_ABI_VERSION) return 3;
    if (run_clips(arguments) != 0 || run_tensors(arguments) != 0) return 1;
    puts("ok");
    return 0;
}
