/* Plumb: run GGUF models of the Llama family from C. This header is the whole public interface.
 *
 *   plumb_error err;
 *   plumb_model *m = plumb_model_open("model.gguf", NULL, &err);
 *   plumb_session *s = m ? plumb_session_open(m, NULL, &err) : NULL;
 *   plumb_chat_add(s, "user", "What is the capital of France?", &err);
 *   plumb_chat_reply(s, NULL, &result, &err);     // or with a callback, as the answer comes
 *
 * Errors: every function that can fail returns a plumb_status (0 is fine) or NULL, and fills *err
 * (which may be NULL) with one line that says what, where and how to mend it. Nothing here prints,
 * exits or reads the environment.
 *
 * Threads: one call at a time on a model and its sessions; different models are independent.
 * plumb_interrupt may be called from any thread and from a signal handler.
 *
 * Text is UTF-8. Token ids are those of the model's vocabulary.
 */
#ifndef PLUMB_H
#define PLUMB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PLUMB_API __attribute__((visibility("default")))
#else
#define PLUMB_API
#endif

typedef enum plumb_status {
    PLUMB_OK = 0,
    PLUMB_FAILED = 1,     /* failed while running: I/O, the prompt does not fit the context, ... */
    PLUMB_USAGE = 2,      /* an argument makes no sense */
    PLUMB_BAD_FILE = 3,   /* the model file is bad or not supported */
    PLUMB_UNAVAILABLE = 4 /* a backend, a device or memory is not available */
} plumb_status;

typedef struct plumb_error {
    plumb_status status;
    char text[1024];
} plumb_error;

typedef struct plumb_model plumb_model;
typedef struct plumb_session plumb_session;

/* "0.1.0" */
PLUMB_API const char *plumb_version(void);

/* --- models -------------------------------------------------------------------------------- */

typedef struct plumb_model_options {
    const char *backend; /* "cpu", ...; NULL: the fastest that can run */
    int device;          /* which of the backend's devices, from 0 */
    /* Of a GPU. N: the last N layers go there, the others to the CPU; the output goes too when N is
     * more than there are layers. -1: none. 0: all; where no backend is named, what fits. */
    int gpu_layers;
    int n_threads;       /* 0: physical cores */
    const char *cpu_isa; /* NULL: the best kernels that the processor can run */
    int no_repack;       /* of the cpu: do not lay the weights out anew; less memory, slower */
    int check_tensors;   /* look at every weight for NaN and infinity (slow) */
    void (*notice)(void *user, const char *line); /* things worth telling a user; NULL: dropped */
    void *user;
} plumb_model_options;

/* Zero-initialised options (or NULL) are the defaults. The file is mapped, not copied, and must
 * stay. */
PLUMB_API plumb_model *plumb_model_open(const char *path, const plumb_model_options *options,
                                        plumb_error *err);
/* The same over `size` bytes that the caller keeps until plumb_model_close. */
PLUMB_API plumb_model *plumb_model_open_memory(const void *data, size_t size, const char *name,
                                               const plumb_model_options *options,
                                               plumb_error *err);
PLUMB_API void plumb_model_close(plumb_model *m); /* after its sessions; NULL is fine */

typedef struct plumb_model_info {
    const char *name, *architecture; /* these and all texts here: valid while the model is open */
    const char *backend;             /* "cpu", ...; where layers are split, the GPU's */
    const char *device;              /* its name, for people; where layers are split, both */
    const char *loaded;              /* what was done to the weights, and how long it took
                                      * ("631 MiB of weights repacked for amx in 0.110 s"), or "" */
    const char *chat_template;       /* name in use, NULL: none (a base model) */
    const char *chat_notice; /* worth telling who chats ("the template is unknown ..."), or "" */
    int n_vocab, n_ctx_train, n_layers, dim;
    uint64_t n_params;
    uint64_t weight_bytes; /* of all weights */
    uint64_t decode_bytes; /* what one decode step must read */
} plumb_model_info;
PLUMB_API void plumb_model_describe(const plumb_model *m, plumb_model_info *out);

/* --- tokens -------------------------------------------------------------------------------- */

#define PLUMB_NO_BOS 1        /* do not put BOS first */
#define PLUMB_PARSE_SPECIAL 2 /* "</s>" and its like are tokens, not text */
/* Writes at most `capacity` ids; *n gets how many there are (call again with more room if *n >
 * capacity). */
PLUMB_API plumb_status plumb_tokenize(const plumb_model *m, const char *text, size_t len,
                                      unsigned flags, int32_t *ids, size_t capacity, size_t *n,
                                      plumb_error *err);
/* Writes at most `capacity` bytes, no NUL; *n gets the length of the whole text. Control tokens
 * appear as their own text ("<s>"). */
PLUMB_API plumb_status plumb_detokenize(const plumb_model *m, const int32_t *ids, size_t n_ids,
                                        char *text, size_t capacity, size_t *n, plumb_error *err);
PLUMB_API int plumb_is_end(const plumb_model *m, int32_t id); /* does this token end an answer? */

/* --- sessions: a context with its KV cache ------------------------------------------------- */

typedef struct plumb_session_options {
    int n_ctx;          /* 0: the model's, or what half the free memory holds if that is less */
    int batch_size;     /* tokens evaluated at once in a prefill; 0: 512 */
    const char *type_k; /* "f16" (default), "f32", "q8_0" */
    const char *type_v;
} plumb_session_options;

PLUMB_API plumb_session *plumb_session_open(plumb_model *m, const plumb_session_options *options,
                                            plumb_error *err);
PLUMB_API void plumb_session_close(plumb_session *s);
PLUMB_API int plumb_session_n_ctx(const plumb_session *s);
PLUMB_API int plumb_session_n_tokens(const plumb_session *s); /* in the cache now */

/* Makes the running plumb_generate or plumb_chat_reply stop soon; it then returns PLUMB_OK with
 * finish PLUMB_FINISH_INTERRUPTED. Stays set until one of them starts again. */
PLUMB_API void plumb_interrupt(plumb_session *s);

/* Low level: appends tokens to the context and gives the last one's n_vocab logits (valid until the
 * next call; NULL: not wanted). plumb_rewind shortens the context to its first n tokens. */
PLUMB_API plumb_status plumb_eval(plumb_session *s, const int32_t *tokens, size_t n,
                                  const float **logits, plumb_error *err);
PLUMB_API void plumb_rewind(plumb_session *s, size_t n);

/* --- generating ---------------------------------------------------------------------------- */

typedef struct plumb_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY forbids the token */
} plumb_logit_bias;

typedef struct plumb_sampling {
    float temperature;    /* 0: greedy, ties to the lowest id */
    int top_k;            /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float typical_p;      /* 1: off */
    float repeat_penalty; /* 1: off */
    int repeat_last_n;    /* tokens the penalties look back on; 0: off, -1: the context */
    float presence_penalty;  /* 0: off */
    float frequency_penalty; /* 0: off */
    int64_t seed;            /* same seed, same text, on every machine; -1: a new one each time */
    const plumb_logit_bias *logit_bias;
    size_t n_logit_bias;
} plumb_sampling;
/* 0.8, 40, 0.95, 0.05, 1, 1, 64, 0, 0, -1, none */
PLUMB_API plumb_sampling plumb_sampling_default(void);

typedef struct plumb_generation {
    plumb_sampling sampling;
    int max_tokens;          /* -1: until the end; 0: evaluate the prompt only */
    int ignore_end;          /* go on past tokens that end an answer */
    const char *const *stop; /* texts that end the answer; not part of it */
    size_t n_stop;
    int n_logprobs;   /* 0: none; N: of each token made and the N likeliest */
    int keep_special; /* control tokens appear in the text */
    /* Prompt lookup. 0: off; N (64 at most): where the last tokens came before, up to N of those
     * that followed are a draft, which one batch checks. Never changes a token, for a draft stands
     * only where it is what would have been chosen; saves steps where text repeats. How long a
     * draft is, and whether there is one, follows from how often they were right. */
    int lookup_max;
    /* Called with whole UTF-8 characters as they are settled; return 0 to stop. May be NULL. */
    int (*on_text)(void *user, const char *text, size_t len);
    /* Called while a long prompt is read. May be NULL. */
    void (*on_prefill)(void *user, size_t done, size_t total);
    void *user;
} plumb_generation;
#define PLUMB_LOOKUP_DEFAULT 7 /* with the last token eight rows, which all kernels do well */
/* Default sampling, max_tokens -1, all else zero. */
PLUMB_API plumb_generation plumb_generation_default(void);

typedef enum plumb_finish {
    PLUMB_FINISH_STOP,       /* the model ended its answer, or a stop text came */
    PLUMB_FINISH_LENGTH,     /* max_tokens */
    PLUMB_FINISH_CONTEXT,    /* the context is full */
    PLUMB_FINISH_INTERRUPTED /* plumb_interrupt, or on_text returned 0 */
} plumb_finish;
PLUMB_API const char *plumb_finish_name(
    plumb_finish f); /* "stop", "length", "context", "interrupted" */

typedef struct plumb_logprob {
    int32_t id;
    float logprob; /* natural log of the model's own probability, before any sampling */
} plumb_logprob;

typedef struct plumb_result {
    const char *text; /* NUL-terminated; its length too, for a NUL may be in it */
    size_t text_len;
    const int32_t *tokens; /* made, the ending one included */
    size_t n_tokens;
    const int32_t *prompt_tokens; /* the whole prompt */
    size_t n_prompt_tokens;
    size_t n_cached;             /* prompt tokens that were in the cache already */
    size_t n_read;               /* prompt tokens evaluated now; fewer where it was interrupted */
    const plumb_logprob *chosen; /* n_tokens, or NULL */
    const plumb_logprob *top;    /* n_tokens x n_logprobs, likeliest first, or NULL */
    plumb_finish finish;
    int64_t seed; /* that was used */
    double prefill_seconds, decode_seconds, first_token_seconds;
    size_t n_decoded; /* decode steps timed in decode_seconds */
    /* Of lookup_max: tokens that were drafted, and those of them that spared a decode step. */
    size_t n_drafted, n_accepted;
} plumb_result; /* all pointers valid until the next call on the session */

/* Reads the prompt, keeping what the cache shares with it, and generates. options NULL: the
 * defaults. */
PLUMB_API plumb_status plumb_generate(plumb_session *s, const int32_t *prompt, size_t n_prompt,
                                      const plumb_generation *options, plumb_result *result,
                                      plumb_error *err);

/* --- chat: a list of messages on a session ------------------------------------------------- */

/* role: "system", "user" or "assistant". */
PLUMB_API plumb_status plumb_chat_add(plumb_session *s, const char *role, const char *content,
                                      plumb_error *err);
PLUMB_API size_t plumb_chat_length(const plumb_session *s);
PLUMB_API plumb_status plumb_chat_get(const plumb_session *s, size_t i, const char **role,
                                      const char **content);
PLUMB_API void plumb_chat_truncate(plumb_session *s, size_t n); /* keeps the first n messages */
/* By name ("chatml", ...), instead of the model's own; "none" renders the messages' texts as they
 * are. */
PLUMB_API plumb_status plumb_chat_set_template(plumb_session *s, const char *name,
                                               plumb_error *err);
/* The ids that the messages and an assistant's opening make; same conventions as plumb_tokenize. */
PLUMB_API plumb_status plumb_chat_tokens(const plumb_session *s, int32_t *ids, size_t capacity,
                                         size_t *n, plumb_error *err);
/* Answers the messages, and adds the answer to them. options NULL: the defaults. */
PLUMB_API plumb_status plumb_chat_reply(plumb_session *s, const plumb_generation *options,
                                        plumb_result *result, plumb_error *err);

#ifdef __cplusplus
}
#endif
#endif
