// Mixes against the files that llama.cpp made, and the fall-backs of odd shapes.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "formats/gguf.h"
#include "formats/mix.h"

static void types_of_file(const char *path, const char *mix_name) {
    Gguf *g;
    Error err;
    if (gguf_open(path, &g, &err)) fail_msg("%s", err.text);
    const Mix *mix = mix_by_name(mix_name);
    assert_non_null(mix);
    uint32_t file_type = 99;
    assert_int_equal(gguf_get_u32(g, "general.file_type", &file_type, NULL, &err), OK);
    assert_int_equal(file_type, mix->file_type);
    MixModel m = {.n_layers = 6, .n_heads = 4, .n_kv_heads = 2, .tied = false};
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        TensorType got = mix_type(mix, &m, t->name, t->n_dims, t->dims[0]);
        char a[32], b[32];
        if (got != t->type) {
            fail_msg("%s: %s is %s, mix says %s", path, t->name, type_name(t->type, a, NULL),
                     type_name(got, b, NULL));
        }
    }
    gguf_close(g);
}

static void files_of_llama_cpp(void **state) {
    (void)state;
    types_of_file("models/demo.gguf", "Q4_K_M");
    types_of_file("tests/golden/models/demo-Q8_0.gguf", "Q8_0");
    types_of_file("tests/golden/models/demo-f16.gguf", "F16");
}

static void names(void **state) {
    (void)state;
    int n = 0;
    for (; mix_at(n); n++) {
        const Mix *m = mix_at(n);
        assert_ptr_equal(mix_by_name(m->name), m);
        assert_string_equal(mix_name_of_file_type(m->file_type), m->name);
        assert_true(type_can_quantize(m->base));
    }
    assert_int_equal(n, 18);
    assert_null(mix_at(-1));
    assert_string_equal(mix_by_name("q4_k")->name, "Q4_K_M");
    assert_string_equal(mix_by_name("Q3_k")->name, "Q3_K_M");
    assert_string_equal(mix_by_name("Q5_K")->name, "Q5_K_M");
    assert_null(mix_by_name("Q4"));
    assert_null(mix_by_name("IQ4_XS"));
    assert_string_equal(mix_name_of_file_type(30), "IQ4_XS");
    assert_null(mix_name_of_file_type(4));
    assert_null(mix_name_of_file_type(1000));
}

static TensorType type_of(const char *mix, MixModel m, const char *name, uint64_t n_cols) {
    return mix_type(mix_by_name(mix), &m, name, 2, n_cols);
}

static void rules(void **state) {
    (void)state;
    MixModel llama7b = {32, 32, 32, false}, tiny_llama = {22, 32, 4, false};
    MixModel tied = {16, 32, 8, true}, llama70b = {80, 64, 8, false};
    // 32 layers: the first 4, the last 4, and 6, 9, 12, ... 27
    for (int layer = 0; layer < 32; layer++) {
        char name[32];
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", layer);
        int more = layer < 4 || layer >= 28 || layer % 3 == 0;
        assert_int_equal(type_of("Q4_K_M", llama7b, name, 11008), more ? TYPE_Q6_K : TYPE_Q4_K);
        assert_int_equal(type_of("Q5_K_M", llama7b, name, 11008), more ? TYPE_Q6_K : TYPE_Q5_K);
        assert_int_equal(type_of("Q4_K_S", llama7b, name, 11008),
                         layer < 4 ? TYPE_Q5_K : TYPE_Q4_K);
        assert_int_equal(type_of("Q3_K_M", llama7b, name, 11008),
                         layer < 2 ? TYPE_Q5_K : TYPE_Q4_K);
        assert_int_equal(type_of("Q2_K", llama7b, name, 11008), TYPE_Q3_K);
    }
    assert_int_equal(type_of("Q2_K", llama7b, "blk.9.attn_v.weight", 4096), TYPE_Q3_K);
    assert_int_equal(type_of("Q2_K", tiny_llama, "blk.9.attn_v.weight", 2048), TYPE_Q4_K);
    assert_int_equal(type_of("IQ4_NL", tiny_llama, "blk.9.attn_v.weight", 2048), TYPE_Q5_K);
    assert_int_equal(type_of("Q4_K_M", llama70b, "blk.15.attn_v.weight", 8192), TYPE_Q6_K);
    assert_int_equal(type_of("Q4_K_M", llama70b, "blk.16.attn_v.weight", 8192), TYPE_Q5_K);
    assert_int_equal(type_of("Q3_K_L", llama7b, "blk.9.attn_output.weight", 4096), TYPE_Q5_K);
    assert_int_equal(type_of("Q4_K_M", tied, "token_embd.weight", 2048), TYPE_Q6_K);
    assert_int_equal(type_of("Q4_K_M", llama7b, "token_embd.weight", 4096), TYPE_Q4_K);
    assert_int_equal(type_of("Q4_0", llama7b, "output.weight", 4096), TYPE_Q6_K);
    assert_int_equal(type_of("Q8_0", llama7b, "output.weight", 4096), TYPE_Q8_0);
    assert_int_equal(type_of("F16", llama7b, "output.weight", 4096), TYPE_F16);
    assert_int_equal(type_of("Q4_K_M", llama7b, "blk.0.attn_q_norm.weight", 4096), TYPE_F32);
    assert_int_equal(type_of("Q4_K_M", llama7b, "blk.0.attn_q.bias", 4096), TYPE_F32);
    assert_int_equal(mix_type(mix_by_name("F16"), &llama7b, "output_norm.weight", 1, 4096),
                     TYPE_F32);
    assert_int_equal(type_of("Q4_K_M", llama7b, "blk.99999999999999999999.ffn_down.weight", 256),
                     TYPE_Q6_K);
}

static void odd_rows_fall_back(void **state) {
    (void)state;
    MixModel m = {24, 14, 2, false};
    assert_int_equal(type_of("Q4_K_M", m, "blk.3.ffn_up.weight", 896), TYPE_Q5_0);
    assert_int_equal(type_of("Q5_K_M", m, "blk.3.ffn_up.weight", 896), TYPE_Q5_1);
    assert_int_equal(type_of("Q6_K", m, "blk.3.ffn_up.weight", 896), TYPE_Q8_0);
    assert_int_equal(type_of("Q2_K", m, "blk.3.ffn_up.weight", 896), TYPE_Q4_0);
    assert_int_equal(type_of("Q3_K_S", m, "blk.3.ffn_up.weight", 96), TYPE_Q4_0);
    assert_int_equal(type_of("Q4_K_M", m, "output.weight", 896), TYPE_Q8_0);
    assert_int_equal(type_of("Q4_0", m, "output.weight", 896), TYPE_Q8_0);
    for (int i = 0; mix_at(i); i++) {
        TensorType t = mix_type(mix_at(i), &m, "blk.0.attn_v.weight", 2, 33);
        assert_int_equal(type_info(t)->block_len, 1);
        t = mix_type(mix_at(i), &m, "output.weight", 2, 33);
        assert_int_equal(type_info(t)->block_len, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_llama_cpp),
        cmocka_unit_test(names),
        cmocka_unit_test(rules),
        cmocka_unit_test(odd_rows_fall_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
