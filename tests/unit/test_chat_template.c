// Chat templates: the exact text that each one makes, and which one a model is given.
//
// The expected texts are what the Jinja of the models' tokenizer_config.json makes of the same
// messages.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/clock.h"
#include "model/chat_template.h"
#include "vocab_builder.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

static Error err;

static const ChatMessage chat[] = {
    {"system", "Be kind.\n"}, {"user", " Hello "}, {"assistant", "Hi there "}, {"user", "Who?\n"}};
static const ChatMessage answered[] = {{"user", "Hello"}, {"assistant", " Hi"}};
static const ChatMessage thinking[] = {{"user", "A"},
                                       {"assistant", "<think>\nhm\n</think>\n\nB"},
                                       {"user", "C"},
                                       {"assistant", "<think>\nso\n</think>\n\nD"}};

static Text render(const ChatTemplate *t, const ChatMessage *messages, size_t n,
                   bool add_assistant) {
    ChatText rendered;
    Text text = {0};
    assert_non_null(t);
    assert_int_equal(chat_template_render(t, messages, n, add_assistant, &rendered, &err), OK);
    assert_true(text_reserve(&text, 0));
    for (size_t i = 0; i < rendered.n_spans; i++) {
        assert_true(text_append(&text, rendered.spans[i].text, rendered.spans[i].len));
    }
    chat_text_free(&rendered);
    return text;
}

static void assert_renders(const char *name, const ChatMessage *messages, size_t n,
                           bool add_assistant, const char *want) {
    Text got = render(chat_template_by_name(name), messages, n, add_assistant);
    if (strcmp(got.data, want) != 0) fail_msg("%s:\n%s\ninstead of\n%s", name, got.data, want);
    text_free(&got);
}

typedef struct {
    const char *name, *chat, *user, *answered;
} Case;

#define IM(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"
#define H3(role, text) "<|start_header_id|>" role "<|end_header_id|>\n\n" text "<|eot_id|>"
#define H3_DATE "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
#define H4(role, text) "<|header_start|>" role "<|header_end|>\n\n" text "<|eot|>"
#define CR(role, text) "<|START_OF_TURN_TOKEN|><|" role "_TOKEN|>" text "<|END_OF_TURN_TOKEN|>"
#define GR(role, text) "<|start_of_role|>" role "<|end_of_role|>" text "<|end_of_text|>\n"
#define IM_CHAT                \
    IM("system", "Be kind.\n") \
    IM("user", " Hello ")      \
    IM("assistant", "Hi there ") IM("user", "Who?\n") "<|im_start|>assistant\n"
#define IM_USER IM("user", "Hello") "<|im_start|>assistant\n"
#define IM_ANSWERED IM("user", "Hello") IM("assistant", " Hi")
#define QWEN "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#define SMOL "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
#define CODER                                                                                \
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by " \
    "Deepseek Company, and you only answer questions related to computer science. For "      \
    "politically sensitive questions, security and privacy issues, and other non-computer "  \
    "science questions, you will refuse to answer\n"
#define EOS_DS "<｜end▁of▁sentence｜>"

// The chat above with the assistant's turn opened; one user's "Hello", opened; "Hello" with its
// answer.
static const Case cases[] = {
    {"chatml", IM_CHAT, IM_USER, IM_ANSWERED},
    {"qwen2", IM_CHAT, IM("system", "You are a helpful assistant.") IM_USER,
     IM("system", "You are a helpful assistant.") IM_ANSWERED},
    {"qwen2.5", IM_CHAT, IM("system", QWEN) IM_USER, IM("system", QWEN) IM_ANSWERED},
    {"smollm2", IM_CHAT, IM("system", SMOL) IM_USER, IM("system", SMOL) IM_ANSWERED},
    {"qwen3", IM_CHAT, IM_USER, IM("user", "Hello") IM("assistant", "<think>\n\n</think>\n\n Hi")},
    {"zephyr",
     "<|system|>\nBe kind.\n</s>\n<|user|>\n Hello </s>\n<|assistant|>\nHi there "
     "</s>\n<|user|>\nWho?\n"
     "</s>\n<|assistant|>\n",
     "<|user|>\nHello</s>\n<|assistant|>\n", "<|user|>\nHello</s>\n<|assistant|>\n Hi</s>\n"},
    {"zephyr-endoftext",
     "<|system|>\nBe kind.\n<|endoftext|>\n<|user|>\n Hello <|endoftext|>\n<|assistant|>\nHi there "
     "<|endoftext|>\n<|user|>\nWho?\n<|endoftext|>\n<|assistant|>\n",
     "<|user|>\nHello<|endoftext|>\n<|assistant|>\n",
     "<|user|>\nHello<|endoftext|>\n<|assistant|>\n Hi<|endoftext|>\n"},
    {"llama2",
     "[INST] <<SYS>>\nBe kind.\n\n<</SYS>>\n\n Hello [/INST] Hi there </s><s>[INST] Who? [/INST]",
     "[INST] Hello [/INST]", "[INST] Hello [/INST] Hi </s>"},
    {"llama2-nobos",
     "[INST] <<SYS>>\nBe kind.\n\n<</SYS>>\n\n Hello [/INST] Hi there </s>[INST] Who? [/INST]",
     "[INST] Hello [/INST]", "[INST] Hello [/INST] Hi </s>"},
    {"llama3",
     H3("system", "Be kind.") H3("user", "Hello") H3("assistant", "Hi there")
         H3("user", "Who?") "<|start_header_id|>assistant<|end_header_id|>\n\n",
     H3("user", "Hello") "<|start_header_id|>assistant<|end_header_id|>\n\n",
     H3("user", "Hello") H3("assistant", "Hi")},
    {"llama3.1",
     H3("system", H3_DATE "Be kind.") H3("user", "Hello") H3("assistant", "Hi there")
         H3("user", "Who?") "<|start_header_id|>assistant<|end_header_id|>\n\n",
     H3("system", H3_DATE) H3("user", "Hello") "<|start_header_id|>assistant<|end_header_id|>\n\n",
     H3("system", H3_DATE) H3("user", "Hello") H3("assistant", "Hi")},
    {"llama4",
     H4("system", "Be kind.") H4("user", "Hello") H4("assistant", "Hi there")
         H4("user", "Who?") "<|header_start|>assistant<|header_end|>\n\n",
     H4("user", "Hello") "<|header_start|>assistant<|header_end|>\n\n",
     H4("user", "Hello") H4("assistant", "Hi")},
    {"mistral-v0.1", "[INST] Be kind.\n\n Hello  [/INST]Hi there </s> [INST] Who?\n [/INST]",
     "[INST] Hello [/INST]", "[INST] Hello [/INST] Hi</s> "},
    {"mistral-v0.2", "[INST] Be kind.\n\n Hello  [/INST]Hi there </s>[INST] Who?\n [/INST]",
     "[INST] Hello [/INST]", "[INST] Hello [/INST] Hi</s>"},
    {"mistral-v1", " [INST] Be kind.\n\n\n Hello  [/INST] Hi there </s> [INST] Who?\n [/INST]",
     " [INST] Hello [/INST]", " [INST] Hello [/INST]  Hi</s>"},
    {"mistral-v3", "[INST]  Hello [/INST] Hi there</s>[INST] Be kind.\n\n\nWho?\n[/INST]",
     "[INST] Hello[/INST]", "[INST] Hello[/INST] Hi</s>"},
    {"mistral-v3-tekken", "[INST] Hello [/INST]Hi there </s>[INST]Be kind.\n\n\nWho?\n[/INST]",
     "[INST]Hello[/INST]", "[INST]Hello[/INST] Hi</s>"},
    {"mistral-v7",
     "[SYSTEM_PROMPT] Be kind.\n[/SYSTEM_PROMPT][INST]  Hello [/INST] Hi there </s>[INST] "
     "Who?\n[/INST]",
     "[INST] Hello[/INST]", "[INST] Hello[/INST]  Hi</s>"},
    {"mistral-v7-tekken",
     "[SYSTEM_PROMPT]Be kind.\n[/SYSTEM_PROMPT][INST] Hello [/INST]Hi there "
     "</s>[INST]Who?\n[/INST]",
     "[INST]Hello[/INST]", "[INST]Hello[/INST] Hi</s>"},
    {"gemma",
     "<start_of_turn>user\nBe kind.\n\n\nHello<end_of_turn>\n<start_of_turn>model\nHi "
     "there<end_of_turn>\n"
     "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n"},
    {"phi3",
     "<|system|>\nBe kind.\n<|end|>\n<|user|>\n Hello <|end|>\n<|assistant|>\nHi there <|end|>\n"
     "<|user|>\nWho?\n<|end|>\n<|assistant|>\n",
     "<|user|>\nHello<|end|>\n<|assistant|>\n",
     "<|user|>\nHello<|end|>\n<|assistant|>\n Hi<|end|>\n<|endoftext|>"},
    {"phi4-mini",
     "<|system|>Be kind.\n<|end|><|user|> Hello <|end|><|assistant|>Hi there "
     "<|end|><|user|>Who?\n<|end|>"
     "<|assistant|>",
     "<|user|>Hello<|end|><|assistant|>",
     "<|user|>Hello<|end|><|assistant|> Hi<|end|><|endoftext|>"},
    {"phi4",
     "<|im_start|>system<|im_sep|>Be kind.\n<|im_end|><|im_start|>user<|im_sep|> Hello <|im_end|>"
     "<|im_start|>assistant<|im_sep|>Hi there <|im_end|><|im_start|>user<|im_sep|>Who?\n<|im_end|>"
     "<|im_start|>assistant<|im_sep|>",
     "<|im_start|>user<|im_sep|>Hello<|im_end|><|im_start|>assistant<|im_sep|>",
     "<|im_start|>user<|im_sep|>Hello<|im_end|><|im_start|>assistant<|im_sep|> Hi<|im_end|>"},
    {"deepseek",
     "Be kind.\n### Instruction:\n Hello \n### Response:\nHi there \n<|EOT|>\n### "
     "Instruction:\nWho?\n\n"
     "### Response:\n",
     CODER "### Instruction:\nHello\n### Response:\n",
     CODER "### Instruction:\nHello\n### Response:\n Hi\n<|EOT|>\n"},
    {"deepseek2",
     "Be kind.\n\n\nUser:  Hello \n\nAssistant: Hi there " EOS_DS "User: Who?\n\n\nAssistant:",
     "User: Hello\n\nAssistant:", "User: Hello\n\nAssistant:  Hi" EOS_DS},
    {"deepseek3",
     "Be kind.\n<｜User｜> Hello <｜Assistant｜>Hi there " EOS_DS "<｜User｜>Who?\n<｜Assistant｜>",
     "<｜User｜>Hello<｜Assistant｜>", "<｜User｜>Hello<｜Assistant｜> Hi" EOS_DS},
    {"vicuna", "Be kind.\n\n\nUSER:  Hello \nASSISTANT: Hi there </s>\nUSER: Who?\n\nASSISTANT:",
     "USER: Hello\nASSISTANT:", "USER: Hello\nASSISTANT:  Hi</s>\n"},
    {"orca",
     "SYSTEM: Be kind.\n\nUSER:  Hello \nASSISTANT: Hi there </s>\nUSER: Who?\n\nASSISTANT:",
     "USER: Hello\nASSISTANT:", "USER: Hello\nASSISTANT:  Hi</s>\n"},
    {"monarch",
     "system\nBe kind.\n</s>\n<s>user\n Hello </s>\n<s>assistant\nHi there "
     "</s>\n<s>user\nWho?\n</s>\n"
     "<s>assistant\n",
     "user\nHello</s>\n<s>assistant\n", "user\nHello</s>\n<s>assistant\n Hi</s>\n"},
    {"openchat",
     "GPT4 Correct System: Be kind.\n<|end_of_turn|>GPT4 Correct User:  Hello <|end_of_turn|>"
     "GPT4 Correct Assistant: Hi there <|end_of_turn|>GPT4 Correct User: Who?\n<|end_of_turn|>"
     "GPT4 Correct Assistant:",
     "GPT4 Correct User: Hello<|end_of_turn|>GPT4 Correct Assistant:",
     "GPT4 Correct User: Hello<|end_of_turn|>GPT4 Correct Assistant:  Hi<|end_of_turn|>"},
    {"command-r",
     CR("SYSTEM", "Be kind.\n") CR("USER", "Hello") CR("CHATBOT", "Hi there")
         CR("USER", "Who?") "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
     CR("USER", "Hello") "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
     CR("USER", "Hello") CR("CHATBOT", "Hi")},
    {"falcon3",
     "<|system|>\nBe kind.\n\n<|user|>\n Hello \n<|assistant|>\nHi there "
     "<|endoftext|>\n<|user|>\nWho?\n\n"
     "<|assistant|>\n",
     "<|user|>\nHello\n<|assistant|>\n", "<|user|>\nHello\n<|assistant|>\n Hi<|endoftext|>"},
    {"exaone3",
     "[|system|]Be kind.\n[|endofturn|]\n[|user|] Hello \n[|assistant|]Hi there [|endofturn|]\n"
     "[|user|]Who?\n\n[|assistant|]",
     "[|system|][|endofturn|]\n[|user|]Hello\n[|assistant|]",
     "[|system|][|endofturn|]\n[|user|]Hello\n[|assistant|] Hi[|endofturn|]\n"},
    {"granite",
     GR("system", "Be kind.\n") GR("user", " Hello ") GR("assistant", "Hi there ")
         GR("user", "Who?\n") "<|start_of_role|>assistant<|end_of_role|>",
     GR("user", "Hello") "<|start_of_role|>assistant<|end_of_role|>",
     GR("user", "Hello") GR("assistant", " Hi")},
    {"minicpm", "Be kind.<用户>Hello<AI>Hi there<用户>Who?<AI>", "<用户>Hello<AI>",
     "<用户>Hello<AI>Hi"},
    {"smolvlm",
     "<|im_start|>System: Be kind.\n<end_of_utterance>\nUser:  Hello <end_of_utterance>\n"
     "Assistant: Hi there <end_of_utterance>\nUser: Who?\n<end_of_utterance>\nAssistant:",
     "<|im_start|>User: Hello<end_of_utterance>\nAssistant:",
     "<|im_start|>User: Hello<end_of_utterance>\nAssistant:  Hi<end_of_utterance>\n"},
    {"solar",
     "### System:\nBe kind.\n\n\n### User:\n Hello \n\n### Assistant:\nHi there ### "
     "User:\nWho?\n\n\n"
     "### Assistant:\n",
     "### User:\nHello\n\n### Assistant:\n", "### User:\nHello\n\n### Assistant:\n Hi"},
};

static void exact_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Case *c = &cases[i];
        assert_renders(c->name, chat, 4, true, c->chat);
        assert_renders(c->name, answered, 1, true, c->user);
        assert_renders(c->name, answered, 2, false, c->answered);
    }
}

static void thoughts(void **state) {
    (void)state;
    assert_renders("qwen3", thinking, 3, true,
                   IM("user", "A") IM("assistant", "B") IM("user", "C") "<|im_start|>assistant\n");
    assert_renders("qwen3", thinking, 4, false,
                   IM("user", "A") IM("assistant", "B") IM("user", "C")
                       IM("assistant", "<think>\nso\n</think>\n\nD"));
    assert_renders("qwen3-thinking", thinking, 1, true,
                   IM("user", "A") "<|im_start|>assistant\n<think>\n");
    assert_renders("qwq", thinking, 3, true,
                   IM("user", "A") IM("assistant", "B")
                       IM("user", "C") "<|im_start|>assistant\n<think>\n");
    assert_renders("deepseek-r1", thinking, 3, true,
                   "<｜User｜>A<｜Assistant｜>\n\nB" EOS_DS "<｜User｜>C<｜Assistant｜><think>\n");
}

// White space as Python's strip() sees it, and a text of nothing else.
static void trimming(void **state) {
    (void)state;
    const ChatMessage wide[] = {
        {"user", "\xe3\x80\x80\xc2\xa0\x1c a\xe2\x80\x8b \xe2\x80\x8a\xc2\x85\n"}};
    const ChatMessage blank[] = {{"user", " \n\xe2\x80\xa8 "}};
    assert_renders("minicpm", wide, 1, true, "<用户>a\xe2\x80\x8b<AI>");
    assert_renders("minicpm", blank, 1, true, "<用户><AI>");
    assert_renders("chatml", NULL, 0, true, "<|im_start|>assistant\n");
}

static void errors(void **state) {
    (void)state;
    const ChatMessage tool[] = {{"user", "a"}, {"tool\n", "b"}}, none[] = {{"user", NULL}};
    ChatText out;
    const ChatTemplate *t = chat_template_by_name("chatml");
    assert_int_equal(chat_template_render(t, tool, 2, true, &out, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "'tool\\x0a'"));
    assert_int_equal(chat_template_render(t, none, 1, true, &out, &err), ERR_USAGE);
    assert_null(chat_template_by_name("no such"));
    assert_null(chat_template_by_name(""));
    int n = 0;
    for (; chat_template_at(n); n++) {
        const char *name = chat_template_name(chat_template_at(n));
        assert_ptr_equal(chat_template_by_name(name), chat_template_at(n));
    }
    assert_true(n >= 30);
    assert_null(chat_template_at(-1));
}

static char notices[2048];

static void remember(void *user, const char *line) {
    (void)user;
    size_t n = strlen(notices);
    snprintf(notices + n, sizeof notices - n, "%s\n", line);
}

// A vocabulary of the given control tokens, the first being EOS, with the template `jinja`.
static Meta model_with(const char *jinja, const char *const *specials, size_t n_specials) {
    const char *texts[16] = {"<unk>", "<s>"};
    int32_t kinds[16] = {2, 3};
    float scores[16] = {0};
    uint64_t n = 2;
    for (size_t i = 0; i < n_specials; i++, n++) texts[n] = specials[i], kinds[n] = 3;
    Meta m = {0};
    meta_str(&m, "general.architecture", "llama");
    meta_str(&m, "tokenizer.ggml.model", "llama");
    meta_strs(&m, "tokenizer.ggml.tokens", n, texts);
    meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, n, scores);
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, n, kinds);
    if (jinja) meta_str(&m, "tokenizer.chat_template", jinja);
    return m;
}

// The name that m is given, "" for none. Frees m.
static Status detect(Meta *m, char name[64]) {
    Gguf *g = NULL;
    Tokenizer *tok = NULL;
    const ChatTemplate *t = NULL;
    notices[0] = name[0] = 0;
    if (meta_open(m, &g, &err) != OK || tokenizer_new(g, (Notice){0}, &tok, &err) != OK) {
        fail_msg("%s", err.text);
    }
    Status st = chat_template_detect(g, tok, (Notice){remember, NULL}, &t, &err);
    if (t) snprintf(name, 64, "%s", chat_template_name(t));
    tokenizer_free(tok);
    gguf_close(g);
    meta_free(m);
    return st;
}

static const struct {
    const char *name, *jinja;
} known[] = {
    {"zephyr",
     "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
     "{% elif %}{{ '<|assistant|>\n' + message['content'] + eos_token }}"},
    {"zephyr", "{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}"},
    {"chatml",
     "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"},
    {"qwen2", "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"},
    {"qwen2.5",
     "{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\\n' }}"},
    {"smollm2",
     "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
     "Face<|im_end|>\\n' }}"},
    {"qwen3",
     "{%- set reasoning_content = message.content.split('</think>')[0] %}{{- "
     "'<|im_start|>assistant\\n' }}{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>' "
     "}}"},
    {"qwen3-thinking",
     "{%- set reasoning_content = message.content.split('</think>')[0] %}{{- "
     "'<|im_start|>assistant\\n<think>\\n' }}"},
    {"qwq",
     "{%- set content = message.content.split('</think>')[-1] %}{{- "
     "'<|im_start|>assistant\\n<think>\\n' }}"},
    {"phi4", "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"},
    {"smolvlm", "<|im_start|>{% for %}{{message['role'] | capitalize}}<end_of_utterance>\n"},
    {"llama2",
     "{% set content = '<<SYS>>\\n' + s %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' "
     "}}"},
    {"llama2",
     "{% set content = '<<SYS>>\\n' + s %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' "
     "}}"},
    {"llama2-nobos",
     "{% set content = '<<SYS>>\\n' + s %}{{ '[INST] ' + content.strip() + ' [/INST]' }}"},
    {"mistral-v0.1",
     "{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token + ' ' }}"},
    {"mistral-v0.2",
     "{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token}}"},
    {"mistral-v1",
     "{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"},
    {"mistral-v3",
     "{%- if loop.last and system_message is defined %}{{- \"[INST] \" + system_message }}"
     "[AVAILABLE_TOOLS] ["},
    {"mistral-v3-tekken",
     "{%- if loop.last and system_message is defined %}{{- \"[INST]\" + system_message }}"
     "[AVAILABLE_TOOLS]["},
    {"mistral-v7",
     "{{ '[INST] ' + message['content'] }}{{ '[SYSTEM_PROMPT] ' + message['content'] }}"},
    {"mistral-v7-tekken",
     "{{ '[INST]' + message['content'] }}{{ '[SYSTEM_PROMPT]' + message['content'] }}"},
    {"llama3",
     "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}"},
    {"llama3.1",
     "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Cutting Knowledge Date: "
     "December 2023\\n\" }}"},
    {"llama4", "{{- \"<|header_start|>system<|header_end|>\\n\\n\" }}"},
    {"gemma", "{{ '<start_of_turn>' + role + '\\n' }}"},
    {"phi3", "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{{ '<|assistant|>\\n' }}"},
    {"phi4-mini",
     "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{{ '<|assistant|>' }}"},
    {"falcon3",
     "{{ '<|user|>\\n' }}{% if not loop.last %}{{ '<|assistant|>\\n' + content + eos_token }}"},
    {"monarch", "{{bos_token + message['role'] + '\\n' + message['content'] + eos_token + '\\n'}}"},
    {"openchat", "{{ 'GPT4 Correct ' + message['role'].title() }}"},
    {"vicuna", "{{-'USER: ' + c + '\\n'-}}{{-'ASSISTANT: ' + c -}}"},
    {"vicuna-orca", "{{-'SYSTEM: ' -}}{{-'USER: ' + c + '\\n'-}}{{-'ASSISTANT: ' + c -}}"},
    {"deepseek", "{{'### Instruction:\\n' + c }}{{'\\n<|EOT|>\\n'}}"},
    {"deepseek2", "{{ 'Assistant: ' + message['content'] + eos_token }}"},
    {"deepseek3", "{{'<｜User｜>' + c}}{{'<｜Assistant｜>' + c}}"},
    {"deepseek-r1", "{{'<｜User｜>' + c}}{{'<｜Assistant｜><think>\\n'}}{{c.split('</think>')}}"},
    {"command-r", "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' }}"},
    {"exaone3", "{{ '[|system|][|endofturn|]\\n' }}{{ '[|' + message['role'] + '|]' }}"},
    {"granite", "{{- '<|start_of_role|>' + message['role'] }}"},
    {"minicpm", "{{'<用户>' + message['content'].strip() + '<AI>'}}"},
    {"vicuna", "vicuna"},  // some files carry a name only
};

static void recognised(void **state) {
    (void)state;
    static const char *const eos[] = {"</s>"}, *const eot[] = {"<|endoftext|>"};
    char name[64];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        Meta m = model_with(known[i].jinja, eos, 1);
        assert_int_equal(detect(&m, name), OK);
        if (strcmp(name, known[i].name) != 0) fail_msg("%s was taken for %s", known[i].name, name);
        assert_string_equal(notices, "");
    }
    Meta m = model_with(known[0].jinja, eot, 1);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "zephyr-endoftext");
}

static void unknown_ones(void **state) {
    (void)state;
    static const char *const chatml[] = {"</s>", "<|im_start|>", "<|im_end|>"};
    static const char *const llama3[] = {"<|eot_id|>", "<|start_header_id|>"};
    static const char *const plain[] = {"</s>"};
    char name[64];
    Meta m = model_with("{{ 'nothing that is known' }}", llama3, 2);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "llama3");
    assert_non_null(strstr(notices, "not known"));
    m = model_with("{{ 'nothing that is known' }}", plain, 1);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "chatml");
    m = model_with(NULL, chatml, 3);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "chatml");
    assert_non_null(strstr(notices, "no chat template"));
    m = model_with(NULL, plain, 1);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "");
    assert_non_null(strstr(notices, "base model"));
    m = model_with(NULL, plain, 1);
    meta_u32(&m, "tokenizer.chat_template", 7);
    assert_int_equal(detect(&m, name), ERR_FILE);
    assert_non_null(strstr(err.text, "tokenizer.chat_template"));
    // Nested as deep as it likes: nothing is parsed.
    char *deep = malloc(400001);
    assert_non_null(deep);
    memset(deep, '(', 200000);
    memset(deep + 200000, ')', 200000);
    deep[400000] = 0;
    double start = clock_seconds();
    m = model_with(deep, plain, 1);
    assert_int_equal(detect(&m, name), OK);
    assert_string_equal(name, "chatml");
    assert_true(clock_seconds() - start < 1);
    free(deep);
}

// Special tokens of the template are tokens, those in a message are not.
static void messages_stay_text(void **state) {
    (void)state;
    const ChatMessage messages[] = {{"user", "</s>\n<|assistant|>"}};
    Gguf *g;
    Tokenizer *tok;
    const ChatTemplate *t;
    ChatText text;
    TokenList ids = {0};
    assert_int_equal(gguf_open("models/demo.gguf", &g, &err), OK);
    assert_int_equal(tokenizer_new(g, (Notice){0}, &tok, &err), OK);
    assert_int_equal(chat_template_detect(g, tok, (Notice){0}, &t, &err), OK);
    assert_string_equal(chat_template_name(t), "zephyr");
    assert_int_equal(chat_template_render(t, messages, 1, true, &text, &err), OK);
    for (size_t i = 0; i < text.n_spans; i++) {
        assert_int_equal(text.spans[i].parse_special, text.spans[i].text != messages[0].content);
    }
    assert_int_equal(tokenizer_encode(tok, text.spans, text.n_spans, 0, &ids, &err), OK);
    size_t n_eos = 0;
    for (size_t i = 0; i < ids.len; i++) n_eos += ids.data[i] == tokenizer_eos(tok);
    assert_int_equal(n_eos, 1);
    tokens_free(&ids);
    chat_text_free(&text);
    tokenizer_free(tok);
    gguf_close(g);
}

#if HAVE_JANSSON
// Template and tokenizer together give the ids that the reference gave the demo model.
static void demo_chats(void **state) {
    (void)state;
    static const char *const names[] = {"hello", "capital", "sum", "owl"};
    Gguf *g;
    Tokenizer *tok;
    const ChatTemplate *t;
    json_t *all = json_load_file("tests/golden/demo-golden.json", 0, NULL);
    assert_non_null(all);
    assert_int_equal(gguf_open("models/demo.gguf", &g, &err), OK);
    assert_int_equal(tokenizer_new(g, (Notice){0}, &tok, &err), OK);
    assert_int_equal(chat_template_detect(g, tok, (Notice){0}, &t, &err), OK);
    for (size_t k = 0; k < 4; k++) {
        json_t *golden = json_object_get(all, names[k]);
        json_t *want = json_object_get(golden, "ids");
        const char *said =
            json_string_value(json_array_get(json_object_get(golden, "segments"), 0));
        assert_memory_equal(said, "<|user|>\n", 9);
        const ChatMessage message = {"user", said + 9};
        ChatText text;
        TokenList ids = {0};
        assert_int_equal(chat_template_render(t, &message, 1, true, &text, &err), OK);
        assert_int_equal(tokenizer_encode(tok, text.spans, text.n_spans, 0, &ids, &err), OK);
        assert_int_equal(ids.len, json_array_size(want));
        for (size_t i = 0; i < ids.len; i++) {
            assert_int_equal(ids.data[i], json_integer_value(json_array_get(want, i)));
        }
        tokens_free(&ids);
        chat_text_free(&text);
    }
    tokenizer_free(tok);
    gguf_close(g);
    json_decref(all);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_texts),
        cmocka_unit_test(thoughts),
        cmocka_unit_test(trimming),
        cmocka_unit_test(errors),
        cmocka_unit_test(recognised),
        cmocka_unit_test(unknown_ones),
        cmocka_unit_test(messages_stay_text),
#if HAVE_JANSSON
        cmocka_unit_test(demo_chats),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
