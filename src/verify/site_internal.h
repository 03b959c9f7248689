// Inner header of site.c and site_attention.c.
#ifndef PLUMB_VERIFY_SITE_INTERNAL_H
#define PLUMB_VERIFY_SITE_INTERNAL_H

#include "verify/site.h"

// kq, kq_soft_max or attn of the tokens row[0..n_rows), from what was captured before them or
// through all three.
Status expect_attention(const Site *s, Component c, const size_t *row, size_t n_rows, Expected *e,
                        Error *err);

#endif
