// JSON output; see json.h.
#include "cli/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"

#if HAVE_JANSSON

Status json_check(Error *err) {
    (void)err;
    return OK;
}

json_t *json_text(const char *s, size_t len) {
    char *clean = malloc(3 * len + 1);
    if (!clean) return NULL;
    json_t *j = json_stringn(clean, utf8_repair(s, len, clean));
    free(clean);
    return j;
}

json_t *json_ids(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        if (json_array_append_new(list, json_integer(ids[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

Status json_print(json_t *object, Error *err) {
    if (!object) return error_memory(err, "JSON output", 0);
    int failed = json_dumpf(object, stdout, JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
    return failed ? error_set(err, ERR_FAILED, "cannot write the JSON output") : OK;
}

// A log-probability; JSON has no infinity.
static json_t *logprob(float v) {
    return json_real(isfinite(v) ? (double)v : -1e9);
}

static json_t *logprobs(const plumb_result *r, int n) {
    json_t *list = json_array();
    bool ok = true;
    for (size_t i = 0; ok && i < r->n_tokens; i++) {
        json_t *top = json_array();
        for (int k = 0; ok && k < n; k++) {
            const plumb_logprob *p = &r->top[i * (size_t)n + (size_t)k];
            ok = json_array_append_new(top, json_pack("{s:i, s:o}", "id", (int)p->id, "logprob",
                                                      logprob(p->logprob))) == 0;
        }
        json_t *token = json_pack("{s:i, s:o, s:o}", "id", (int)r->chosen[i].id, "logprob",
                                  logprob(r->chosen[i].logprob), "top", top);
        ok = json_array_append_new(list, token) == 0 && ok;
    }
    if (ok) return list;
    json_decref(list);
    return NULL;
}

static json_t *lookup(const plumb_result *r) {
    return json_pack("{s:I, s:I, s:I}", "drafted", (json_int_t)r->n_drafted, "accepted",
                     (json_int_t)r->n_accepted, "steps", (json_int_t)r->n_decoded);
}

Status json_print_run(const plumb_model *m, const plumb_result *r, int n_logprobs,
                      const RunFigures *f, double load_s, Error *err) {
    plumb_model_info info;
    plumb_model_describe(m, &info);
    json_t *timings = json_pack("{s:f, s:f, s:f, s:f, s:f}", "load_s", load_s, "prefill_tok_s",
                                f->prefill_tok_s, "decode_tok_s", f->decode_tok_s, "ttft_s",
                                f->ttft_s, "decode_gb_s", f->decode_gb_s);
    json_t *o =
        json_pack("{s:o, s:o, s:o, s:s, s:o, s:s, s:s, s:I}", "text",
                  json_text(r->text, r->text_len), "tokens", json_ids(r->tokens, r->n_tokens),
                  "prompt_tokens", json_ids(r->prompt_tokens, r->n_prompt_tokens), "finish",
                  plumb_finish_name(r->finish), "timings", timings, "backend", info.backend,
                  "device", info.device, "seed", (json_int_t)r->seed);
    bool ok = o != NULL;
    if (ok && n_logprobs > 0) ok = json_object_set_new(o, "logprobs", logprobs(r, n_logprobs)) == 0;
    if (ok && f->lookup) ok = json_object_set_new(o, "lookup", lookup(r)) == 0;
    if (o && !ok) {
        json_decref(o);
        o = NULL;
    }
    return json_print(o, err);
}

#else

Status json_check(Error *err) {
    return error_set(err, ERR_UNAVAILABLE,
                     "--json needs the jansson library, which this build lacks; install "
                     "libjansson-dev and run make");
}

Status json_print_run(const plumb_model *m, const plumb_result *r, int n_logprobs,
                      const RunFigures *f, double load_s, Error *err) {
    (void)m, (void)r, (void)n_logprobs, (void)f, (void)load_s;
    return json_check(err);
}

#endif
