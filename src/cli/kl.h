// Probabilities of a model over a text, kept in a file, and the divergence of another model from
// them.
//
// This room owns: the file and its format. It leaves to others: which positions are scored
// (cmd_perplexity.c).
//
// The file, little-endian:
//   0   magic "PLUMB-KL"
//   8   u32 version, 1
//   12  u32 n_vocab
//   16  u32 chunk, tokens a chunk
//   20  u32 scored, positions a chunk
//   24  u32 chunks
//   28  u32 0
//   32  the chunks, each:
//         u64 digest of the ids of all chunks up to this one (FNV-1a over 4 bytes an id)
//         scored x [ u32 id of the first choice | n_vocab x u16 code ]
// code = (logit of the first choice - logit) * CODES_A_NAT, rounded, at most 65535: a step of
// 1/2730 nat, and what lies more than 24 nats below the first choice counts as lying there. Reading
// normalises again, so that what the rounding leaves in a divergence is of second order (about
// 1e-8).
#ifndef PLUMB_CLI_KL_H
#define PLUMB_CLI_KL_H

#include "base/checked.h"
#include "base/status.h"

typedef struct {
    uint32_t n_vocab, chunk, scored, chunks;
} KlShape;

#define KL_DIGEST_START 0xcbf29ce484222325u
uint64_t kl_digest(uint64_t digest, const int32_t *ids, size_t n);

// Writing: for each chunk kl_put_chunk, then `scored` times kl_put. The file appears when
// kl_writer_finish succeeds.
typedef struct KlWriter KlWriter;
Status kl_writer_open(const char *path, const KlShape *shape, KlWriter **out, Error *err);
Status kl_put_chunk(KlWriter *w, uint64_t digest, Error *err);
Status kl_put(KlWriter *w, const float *logits, Error *err);  // n_vocab
Status kl_writer_finish(KlWriter *w, Error *err);             // frees w, also on failure
void kl_writer_abort(KlWriter *w);                            // NULL is fine

// Reading. ERR_FILE where the file is none of these, is cut short, or was made with another
// vocabulary or chunk length, or with fewer chunks than `shape` asks for.
typedef struct KlReader KlReader;
Status kl_reader_open(const char *path, const KlShape *shape, KlReader **out, Error *err);
// ERR_FILE where the file's chunk was of another text.
Status kl_check_chunk(const KlReader *r, uint32_t chunk, uint64_t digest, Error *err);
// KL divergence (nats) from the file's distribution at a position of a chunk to that of the logits,
// whose log_sum_exp is `norm`. *top gets the id of the file's first choice.
double kl_divergence(const KlReader *r, uint32_t chunk, uint32_t position, const float *logits,
                     double norm, uint32_t *top);
Status kl_reader_fault(const KlReader *r, Error *err);  // did the file fail under us?
void kl_reader_close(KlReader *r);

// log(sum(exp(logits))), and the lowest id of the greatest logit in *top. NaN where a logit is.
double kl_log_sum_exp(const float *logits, uint32_t n, uint32_t *top);

#endif
