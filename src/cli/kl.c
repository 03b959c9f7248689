// Probabilities kept in a file; see kl.h for the format.
#include "cli/kl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define CODES_A_NAT (65535.0 / 24)
enum { HEADER_BYTES = 32, MAX_CODE = 65535 };
static const char magic[8] = {'P', 'L', 'U', 'M', 'B', '-', 'K', 'L'};

uint64_t kl_digest(uint64_t digest, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (int shift = 0; shift < 32; shift += 8) {
            digest = (digest ^ ((uint32_t)ids[i] >> shift & 255)) * 0x100000001b3u;
        }
    }
    return digest;
}

double kl_log_sum_exp(const float *logits, uint32_t n, uint32_t *top) {
    uint32_t best = 0;
    double sum = 0;
    for (uint32_t i = 1; i < n; i++) best = logits[i] > logits[best] ? i : best;
    for (uint32_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)logits[best]);
    *top = best;
    return (double)logits[best] + log(sum);
}

static void put_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t record_bytes(const KlShape *s) {
    return 4 + 2 * (uint64_t)s->n_vocab;
}

static uint64_t chunk_bytes(const KlShape *s) {
    return 8 + s->scored * record_bytes(s);
}

// --- writing -------------------------------------------------------------------------------------

struct KlWriter {
    OutFile *file;
    KlShape shape;
    uint8_t *record;
};

Status kl_writer_open(const char *path, const KlShape *shape, KlWriter **out, Error *err) {
    uint8_t header[HEADER_BYTES] = {0};
    KlWriter *w = calloc(1, sizeof *w);
    *out = NULL;
    if (w) w->record = malloc(record_bytes(shape));
    if (!w || !w->record) {
        free(w);
        return error_memory(err, "probabilities", record_bytes(shape));
    }
    w->shape = *shape;
    memcpy(header, magic, sizeof magic);
    const uint32_t fields[] = {1, shape->n_vocab, shape->chunk, shape->scored, shape->chunks};
    for (size_t i = 0; i < 5; i++) put_u32(header + 8 + 4 * i, fields[i]);
    Status st = out_open(path, &w->file, err);
    if (!st) st = out_write(w->file, header, sizeof header, err);
    if (st) {
        kl_writer_abort(w);
        return st;
    }
    *out = w;
    return OK;
}

Status kl_put_chunk(KlWriter *w, uint64_t digest, Error *err) {
    uint8_t bytes[8];
    put_u32(bytes, (uint32_t)digest);
    put_u32(bytes + 4, (uint32_t)(digest >> 32));
    return out_write(w->file, bytes, sizeof bytes, err);
}

Status kl_put(KlWriter *w, const float *logits, Error *err) {
    const uint32_t n = w->shape.n_vocab;
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++) top = logits[i] > logits[top] ? i : top;
    put_u32(w->record, top);
    for (uint32_t i = 0; i < n; i++) {
        const double code = ((double)logits[top] - (double)logits[i]) * CODES_A_NAT + 0.5;
        const uint32_t c = code < MAX_CODE ? (uint32_t)code : MAX_CODE;
        w->record[4 + 2 * i] = (uint8_t)c;
        w->record[5 + 2 * i] = (uint8_t)(c >> 8);
    }
    return out_write(w->file, w->record, record_bytes(&w->shape), err);
}

Status kl_writer_finish(KlWriter *w, Error *err) {
    Status st = out_commit(w->file, err);
    w->file = NULL;
    kl_writer_abort(w);
    return st;
}

void kl_writer_abort(KlWriter *w) {
    if (!w) return;
    out_abort(w->file);
    free(w->record);
    free(w);
}

// --- reading -------------------------------------------------------------------------------------

struct KlReader {
    MappedFile *file;
    KlShape shape;
    double *weight;  // of each code: exp(-code / CODES_A_NAT)
};

static Status check_header(const MappedFile *f, const KlShape *want, Error *err) {
    const char *path = file_path(f);
    const uint8_t *p = file_data(f);
    if (file_size(f) < HEADER_BYTES || memcmp(p, magic, sizeof magic) != 0) {
        return error_set(err, ERR_FILE, "%s: is no file that --kl-base wrote", path);
    }
    const KlShape has = {get_u32(p + 12), get_u32(p + 16), get_u32(p + 20), get_u32(p + 24)};
    if (get_u32(p + 8) != 1) {
        return error_set(err, ERR_FILE, "%s: version %u of the format, expected 1; make it again",
                         path, get_u32(p + 8));
    }
    if (has.n_vocab != want->n_vocab) {
        return error_set(
            err, ERR_FILE,
            "%s: was made with a vocabulary of %u tokens, this model has %u: only models of one "
            "vocabulary can be compared",
            path, has.n_vocab, want->n_vocab);
    }
    if (has.chunk != want->chunk || has.scored != want->scored) {
        return error_set(err, ERR_FILE, "%s: was made with chunks of %u tokens, not %u; give -c %u",
                         path, has.chunk, want->chunk, has.chunk);
    }
    if (has.chunks < want->chunks) {
        return error_set(err, ERR_FILE, "%s: holds %u chunks, this run has %u; give --chunks %u",
                         path, has.chunks, want->chunks, has.chunks);
    }
    uint64_t bytes;
    if (!checked_mul(chunk_bytes(&has), has.chunks, &bytes) ||
        !checked_add(bytes, HEADER_BYTES, &bytes) || bytes != file_size(f)) {
        return error_set(err, ERR_FILE,
                         "%s: has %llu bytes, expected %llu for %u chunks; make it again", path,
                         (unsigned long long)file_size(f), (unsigned long long)bytes, has.chunks);
    }
    return OK;
}

Status kl_reader_open(const char *path, const KlShape *shape, KlReader **out, Error *err) {
    KlReader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) return error_memory(err, "probabilities", sizeof *r);
    Status st = file_map(path, &r->file, err);
    if (!st) st = check_header(r->file, shape, err);
    if (!st) {
        r->weight = malloc((MAX_CODE + 1) * sizeof *r->weight);
        if (!r->weight) st = error_memory(err, "probabilities", (MAX_CODE + 1) * sizeof *r->weight);
    }
    if (st) {
        kl_reader_close(r);
        return st;
    }
    for (int c = 0; c <= MAX_CODE; c++) r->weight[c] = exp(-c / CODES_A_NAT);
    r->shape = *shape;
    *out = r;
    return OK;
}

static const uint8_t *chunk_at(const KlReader *r, uint32_t chunk) {
    return file_data(r->file) + HEADER_BYTES + chunk * chunk_bytes(&r->shape);
}

Status kl_check_chunk(const KlReader *r, uint32_t chunk, uint64_t digest, Error *err) {
    const uint8_t *p = chunk_at(r, chunk);
    if ((get_u32(p) | (uint64_t)get_u32(p + 4) << 32) == digest) return OK;
    return error_set(
        err, ERR_FILE,
        "%s: was made with another text or another vocabulary: the tokens differ in chunk %u",
        file_path(r->file), chunk + 1);
}

double kl_divergence(const KlReader *r, uint32_t chunk, uint32_t position, const float *logits,
                     double norm, uint32_t *top) {
    const uint32_t n = r->shape.n_vocab;
    const uint8_t *p = chunk_at(r, chunk) + 8 + position * record_bytes(&r->shape);
    *top = get_u32(p);
    p += 4;
    // p_i = w_i / W, log p_i = -c_i / CODES_A_NAT - log W; KL = sum p_i (log p_i - log q_i).
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t code = p[2 * i] | (uint32_t)p[2 * i + 1] << 8;
        const double w = r->weight[code];
        total += w;
        sum += w * (-(double)code / CODES_A_NAT - ((double)logits[i] - norm));
    }
    return sum / total - log(total);
}

Status kl_reader_fault(const KlReader *r, Error *err) {
    return file_fault(r->file, err);
}

void kl_reader_close(KlReader *r) {
    if (!r) return;
    file_unmap(r->file);
    free(r->weight);
    free(r);
}
