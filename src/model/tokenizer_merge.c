// The merge loop that both kinds of BPE share: always the best pair, leftmost among equals.
//
// This room owns: the linked symbols, the priority queue, their memory. It leaves to others: which
// pairs merge and with what priority (PairFn), and what a symbol's id means.
// A pair that has changed since it was queued is recognised by its length and skipped, so that
// nothing is ever searched for in the queue: O(n log n) for any text.
#include <stdlib.h>

#include "model/tokenizer_internal.h"

void encode_space_free(EncodeSpace *s) {
    free(s->symbols);
    free(s->heap);
    free(s->ends);
    free(s->ends2);
    text_free(&s->text);
    pretokenize_match_free(s->match);
    *s = (EncodeSpace){0};
}

bool encode_space_symbols(EncodeSpace *s, size_t n) {
    if (n <= s->cap) return true;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < n) {
        if (cap > SIZE_MAX / 4 / sizeof(MergeItem)) return false;
        cap *= 2;
    }
    Symbol *symbols = realloc(s->symbols, cap * sizeof *symbols);
    if (symbols) s->symbols = symbols;
    // n - 1 pairs at first; each of at most n - 1 merges takes one out and puts two in.
    MergeItem *heap = symbols ? realloc(s->heap, 2 * cap * sizeof *heap) : NULL;
    if (heap) s->heap = heap;
    if (!symbols || !heap) return false;
    s->cap = cap;
    return true;
}

static void heap_push(EncodeSpace *s, MergeItem item) {
    uint32_t i = s->n_heap++;
    while (i > 0 && s->heap[(i - 1) / 2].key > item.key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = item;
}

static MergeItem heap_pop(EncodeSpace *s) {
    MergeItem top = s->heap[0], last = s->heap[--s->n_heap];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= s->n_heap) break;
        if (child + 1 < s->n_heap && s->heap[child + 1].key < s->heap[child].key) child++;
        if (s->heap[child].key >= last.key) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static void queue_pair(const Tokenizer *t, EncodeSpace *s, const char *text, PairFn pair,
                       uint32_t left, uint32_t right) {
    if (left == SYMBOL_NONE || right == SYMBOL_NONE) return;
    const Symbol *l = &s->symbols[left], *r = &s->symbols[right];
    uint32_t priority;
    MergeItem item = {.right = right, .len = l->len + r->len};
    if (!pair(t, text, l, r, &priority, &item.merged)) return;
    item.key = (uint64_t)priority << 32 | left;
    heap_push(s, item);
}

void merge_symbols(const Tokenizer *t, EncodeSpace *s, const char *text, PairFn pair) {
    s->n_heap = 0;
    for (uint32_t i = 1; i < s->n_symbols; i++) queue_pair(t, s, text, pair, i - 1, i);
    while (s->n_heap) {
        MergeItem item = heap_pop(s);
        uint32_t left = (uint32_t)item.key;
        Symbol *l = &s->symbols[left], *r = &s->symbols[item.right];
        if (l->len == 0 || r->len == 0 || l->next != item.right || l->len + r->len != item.len) {
            continue;
        }
        l->len = item.len, l->id = item.merged, l->next = r->next;
        r->len = 0;
        if (r->next != SYMBOL_NONE) s->symbols[r->next].prev = left;
        queue_pair(t, s, text, pair, l->prev, left);
        queue_pair(t, s, text, pair, left, l->next);
    }
}
