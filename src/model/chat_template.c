// Chat templates: the table of those that are known, and telling which one a model carries.
//
// This room owns: every known template's texts, the strings that give a Jinja program away, the
// choice where there is none or it is unknown. It leaves to others: putting messages into the texts
// (chat_render.c), tokens (tokenizer.h).
// Source: the chat_template of each model's tokenizer_config.json, rendered as Hugging Face's
// transformers does (trim_blocks and lstrip_blocks set); names are llama.cpp's where it has one.
// What depends on today's date in a template is written with the date that the template falls back
// on.
#include <string.h>

#include "model/chat_internal.h"

#define CHATML                                          \
    .system = {"<|im_start|>system\n", "<|im_end|>\n"}, \
    .user = {"<|im_start|>user\n", "<|im_end|>\n"},     \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"}
#define HEADER3(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define HEADER4(role) "<|header_start|>" role "<|header_end|>\n\n"
#define TURN_R(role) "<|START_OF_TURN_TOKEN|><|" role "_TOKEN|>"
#define ROLE_G(role) "<|start_of_role|>" role "<|end_of_role|>"
#define DEEPSEEK_END "<｜end▁of▁sentence｜>"
#define TRIM_ALL (TRIM_SYSTEM | TRIM_USER | TRIM_ASSISTANT)

static const ChatTemplate templates[] = {
    {.name = "chatml", CHATML, .opening = "<|im_start|>assistant\n"},
    {.name = "qwen2",
     CHATML,
     .opening = "<|im_start|>assistant\n",
     .default_system = "You are a helpful assistant."},
    {.name = "qwen2.5",
     CHATML,
     .opening = "<|im_start|>assistant\n",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen3",
     CHATML,
     .opening = "<|im_start|>assistant\n",
     .flags = DROP_THOUGHTS | DROP_NEWLINES | QWEN3_THOUGHTS},
    {.name = "qwen3-thinking",
     CHATML,
     .opening = "<|im_start|>assistant\n<think>\n",
     .flags = DROP_THOUGHTS | DROP_NEWLINES | QWEN3_THOUGHTS},
    {.name = "qwq",
     CHATML,
     .opening = "<|im_start|>assistant\n<think>\n",
     .flags = DROP_THOUGHTS | DROP_NEWLINES},
    {.name = "smollm2",
     CHATML,
     .opening = "<|im_start|>assistant\n",
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {.name = "smolvlm",
     .start = "<|im_start|>",
     .system = {"System: ", "<end_of_utterance>\n"},
     .user = {"User: ", "<end_of_utterance>\n"},
     .assistant = {"Assistant: ", "<end_of_utterance>\n"},
     .opening = "Assistant:"},
    {.name = "phi4",
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .opening = "<|im_start|>assistant<|im_sep|>"},
    {.name = "phi4-mini",
     .system = {"<|system|>", "<|end|>"},
     .user = {"<|user|>", "<|end|>"},
     .assistant = {"<|assistant|>", "<|end|>"},
     .opening = "<|assistant|>",
     .closing = "<|endoftext|>"},
    {.name = "phi3",
     .system = {"<|system|>\n", "<|end|>\n"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .opening = "<|assistant|>\n",
     .closing = "<|endoftext|>",
     .flags = SKIP_EMPTY_SYSTEM},
    {.name = "zephyr",
     .system = {"<|system|>\n", "</s>\n"},
     .user = {"<|user|>\n", "</s>\n"},
     .assistant = {"<|assistant|>\n", "</s>\n"},
     .opening = "<|assistant|>\n"},
    {.name = "zephyr-endoftext",
     .system = {"<|system|>\n", "<|endoftext|>\n"},
     .user = {"<|user|>\n", "<|endoftext|>\n"},
     .assistant = {"<|assistant|>\n", "<|endoftext|>\n"},
     .opening = "<|assistant|>\n"},
    {.name = "falcon3",
     .system = {"<|system|>\n", "\n"},
     .user = {"<|user|>\n", "\n"},
     .assistant = {"<|assistant|>\n", "<|endoftext|>\n"},
     .opening = "<|assistant|>\n",
     .flags = NO_LAST_NEWLINE},
    {.name = "llama2",
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"<s>[INST] ", " [/INST]"},
     .assistant = {" ", " </s>"},
     .flags =
         SYSTEM_IN_NEXT_USER | TRIM_JOINED | TRIM_USER | TRIM_ASSISTANT | TURNS_START_WITH_BOS},
    {.name = "llama2-nobos",
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {" ", " </s>"},
     .flags = SYSTEM_IN_NEXT_USER | TRIM_JOINED | TRIM_USER | TRIM_ASSISTANT},
    {.name = "llama2-notrim",
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"<s>[INST] ", " [/INST]"},
     .assistant = {" ", " </s>"},
     .flags = SYSTEM_IN_NEXT_USER | TURNS_START_WITH_BOS},
    {.name = "llama3",
     .system = {HEADER3("system"), "<|eot_id|>"},
     .user = {HEADER3("user"), "<|eot_id|>"},
     .assistant = {HEADER3("assistant"), "<|eot_id|>"},
     .opening = HEADER3("assistant"),
     .flags = TRIM_ALL},
    {.name = "llama3.1",
     .system = {HEADER3("system") "Cutting Knowledge Date: December 2023\n"
                                  "Today Date: 26 Jul 2024\n\n",
                "<|eot_id|>"},
     .user = {HEADER3("user"), "<|eot_id|>"},
     .assistant = {HEADER3("assistant"), "<|eot_id|>"},
     .opening = HEADER3("assistant"),
     .default_system = "",
     .late_system = {HEADER3("system"), "<|eot_id|>"},
     .flags = TRIM_ALL},
    {.name = "llama4",
     .system = {HEADER4("system"), "<|eot|>"},
     .user = {HEADER4("user"), "<|eot|>"},
     .assistant = {HEADER4("assistant"), "<|eot|>"},
     .opening = HEADER4("assistant"),
     .flags = TRIM_ALL},
    // Mistral's early models know no system; their template ends after the user's turn.
    {.name = "mistral-v0.1",
     .system = {"", "\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "</s> "},
     .flags = SYSTEM_IN_NEXT_USER},
    {.name = "mistral-v0.2",
     .system = {"", "\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "</s>"},
     .flags = SYSTEM_IN_NEXT_USER},
    {.name = "mistral-v1",
     .system = {"", "\n\n"},
     .user = {" [INST] ", " [/INST]"},
     .assistant = {" ", "</s>"},
     .flags = SYSTEM_IN_NEXT_USER},
    {.name = "mistral-v3",
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>"},
     .flags = SYSTEM_IN_LAST_USER | TRIM_ASSISTANT},
    {.name = "mistral-v3-first",
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>"},
     .flags = SYSTEM_IN_NEXT_USER | TRIM_ASSISTANT},
    {.name = "mistral-v3-tekken",
     .system = {"", "\n\n"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "</s>"},
     .flags = SYSTEM_IN_LAST_USER},
    {.name = "mistral-v3-tekken-first",
     .system = {"", "\n\n"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "</s>"},
     .flags = SYSTEM_IN_NEXT_USER},
    // Later versions put a text with today's date where there is no system message; that is not
    // done.
    {.name = "mistral-v7",
     .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>"}},
    {.name = "mistral-v7-tekken",
     .system = {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "</s>"}},
    {.name = "gemma",
     .system = {"", "\n\n"},
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .opening = "<start_of_turn>model\n",
     .flags = SYSTEM_IN_NEXT_USER | TRIM_USER | TRIM_ASSISTANT},
    {.name = "monarch",
     .system = {"<s>system\n", "</s>\n"},
     .user = {"<s>user\n", "</s>\n"},
     .assistant = {"<s>assistant\n", "</s>\n"},
     .opening = "<s>assistant\n",
     .flags = TURNS_START_WITH_BOS},
    {.name = "openchat",
     .system = {"GPT4 Correct System: ", "<|end_of_turn|>"},
     .user = {"GPT4 Correct User: ", "<|end_of_turn|>"},
     .assistant = {"GPT4 Correct Assistant: ", "<|end_of_turn|>"},
     .opening = "GPT4 Correct Assistant:"},
    {.name = "vicuna",
     .system = {"", "\n\n"},
     .user = {"USER: ", "\n"},
     .assistant = {"ASSISTANT: ", "</s>\n"},
     .opening = "ASSISTANT:"},
    {.name = "vicuna-orca",
     .system = {"SYSTEM: ", "\n"},
     .user = {"USER: ", "\n"},
     .assistant = {"ASSISTANT: ", "</s>\n"},
     .opening = "ASSISTANT:"},
    {.name = "deepseek",
     .system = {"", ""},
     .user = {"### Instruction:\n", "\n"},
     .assistant = {"### Response:\n", "\n<|EOT|>\n"},
     .opening = "### Response:\n",
     .default_system =
         "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
         "Deepseek Company, and you only answer questions related to computer science. For "
         "politically sensitive questions, security and privacy issues, and other non-computer "
         "science questions, you will refuse to answer\n"},
    {.name = "deepseek2",
     .system = {"", "\n\n"},
     .user = {"User: ", "\n\n"},
     .assistant = {"Assistant: ", DEEPSEEK_END},
     .opening = "Assistant:"},
    {.name = "deepseek3",
     .system = {"", ""},
     .user = {"<｜User｜>", ""},
     .assistant = {"<｜Assistant｜>", DEEPSEEK_END},
     .opening = "<｜Assistant｜>",
     .flags = SYSTEM_AT_START},
    {.name = "deepseek-r1-v1",
     .system = {"", ""},
     .user = {"<｜User｜>", ""},
     .assistant = {"<｜Assistant｜>", DEEPSEEK_END},
     .opening = "<｜Assistant｜>",
     .flags = SYSTEM_AT_START | DROP_THOUGHTS},
    {.name = "deepseek-r1",
     .system = {"", ""},
     .user = {"<｜User｜>", ""},
     .assistant = {"<｜Assistant｜>", DEEPSEEK_END},
     .opening = "<｜Assistant｜><think>\n",
     .flags = SYSTEM_AT_START | DROP_THOUGHTS},
    {.name = "command-r",
     .system = {TURN_R("SYSTEM"), "<|END_OF_TURN_TOKEN|>"},
     .user = {TURN_R("USER"), "<|END_OF_TURN_TOKEN|>"},
     .assistant = {TURN_R("CHATBOT"), "<|END_OF_TURN_TOKEN|>"},
     .opening = TURN_R("CHATBOT"),
     .flags = TRIM_USER | TRIM_ASSISTANT},
    {.name = "exaone3",
     .system = {"[|system|]", "[|endofturn|]\n"},
     .user = {"[|user|]", "\n"},
     .assistant = {"[|assistant|]", "[|endofturn|]\n"},
     .opening = "[|assistant|]",
     .default_system = ""},
    {.name = "granite",
     .system = {ROLE_G("system"), "<|end_of_text|>\n"},
     .user = {ROLE_G("user"), "<|end_of_text|>\n"},
     .assistant = {ROLE_G("assistant"), "<|end_of_text|>\n"},
     .opening = ROLE_G("assistant")},
    {.name = "minicpm",
     .system = {"", ""},
     .user = {"<用户>", "<AI>"},
     .assistant = {"", ""},
     .flags = TRIM_ALL},
    {.name = "solar",
     .system = {"### System:\n", "\n\n"},
     .user = {"### User:\n", "\n\n"},
     .assistant = {"### Assistant:\n", ""},
     .opening = "### Assistant:\n",
     .flags = SKIP_EMPTY_SYSTEM},
};

static const struct {
    const char *alias, *name;
} aliases[] = {
    {"tinyllama", "zephyr"},       {"orca", "vicuna-orca"},
    {"mistral", "mistral-v3"},     {"deepseek-coder", "deepseek"},
    {"deepseek-llm", "deepseek2"}, {"llama2-sys", "llama2-nobos"},
    {"llama2-sys-bos", "llama2"},  {"llama2-sys-strip", "llama2-nobos"},
    {"llama3.2", "llama3.1"},      {"llama3.3", "llama3.1"},
};

// What gives a template away: all of `has` (up to three strings), the first row that fits.
// `without` must not be in it.
typedef struct {
    const char *name;
    const char *has[3];
    const char *without;
} Sign;

static const Sign signs[] = {
    {"phi4", {"<|im_start|>", "<|im_sep|>"}, NULL},
    {"smolvlm", {"<|im_start|>", "<end_of_utterance>"}, NULL},
    {"smollm2", {"<|im_start|>", "You are a helpful AI assistant named SmolLM, trained by"}, NULL},
    {"qwen2.5", {"<|im_start|>", "You are Qwen, created by Alibaba Cloud."}, NULL},
    {"qwen3-thinking",
     {"<|im_start|>", "assistant\\n<think>\\n' }}", "reasoning_content"},
     "enable_thinking"},
    {"qwq", {"<|im_start|>", "assistant\\n<think>\\n", "</think>"}, "enable_thinking"},
    {"qwen3", {"<|im_start|>", "reasoning_content", "</think>"}, NULL},
    {"qwen2", {"<|im_start|>", "You are a helpful assistant."}, NULL},
    {"chatml", {"<|im_start|>"}, NULL},
    {"mistral-v7", {"[SYSTEM_PROMPT] ", "[INST] "}, NULL},
    {"mistral-v7-tekken", {"[SYSTEM_PROMPT]"}, NULL},
    {"llama2", {"<<SYS>>", "bos_token + '[INST]", "strip()"}, NULL},
    {"llama2", {"<<SYS>>", "bos_token + '[INST]", "trim"}, NULL},
    {"llama2-notrim", {"<<SYS>>", "bos_token + '[INST]"}, NULL},
    {"llama2-nobos", {"[INST]", "<<SYS>>"}, NULL},
    {"mistral-v1", {"' [INST] ' +"}, NULL},
    {"mistral-v1", {"\" [INST] \" +"}, NULL},
    {"mistral-v3-tekken-first", {"\"[INST]\" +", "loop.first and system_message"}, NULL},
    {"mistral-v3-tekken", {"\"[INST]\" +"}, NULL},
    {"mistral-v3-first", {"[INST] ", "[AVAILABLE_TOOLS]", "loop.first and system_message"}, NULL},
    {"mistral-v3", {"[INST] ", "[AVAILABLE_TOOLS]"}, NULL},
    {"mistral-v0.1", {"[INST] ", "eos_token + ' '"}, NULL},
    {"mistral-v0.2", {"[INST]"}, NULL},
    {"phi4-mini", {"<|end|>", "<|assistant|>", "'|>' + message['content']"}, NULL},
    {"phi3", {"<|end|>", "<|assistant|>"}, NULL},
    {"falcon3", {"<|user|>", "<|assistant|>", "not loop.last"}, NULL},
    {"zephyr", {"<|user|>", "<|assistant|>", "eos_token"}, NULL},
    {"zephyr", {"<|user|>", "<|assistant|>", "</s>"}, NULL},
    {"zephyr-endoftext", {"<|user|>", "<|assistant|>", "<|endoftext|>"}, NULL},
    {"monarch", {"bos_token + message['role']"}, NULL},
    {"gemma", {"<start_of_turn>"}, NULL},
    {"openchat", {"GPT4 Correct "}, NULL},
    {"vicuna-orca", {"USER: ", "ASSISTANT: ", "SYSTEM: "}, NULL},
    {"vicuna", {"USER: ", "ASSISTANT: "}, NULL},
    {"deepseek", {"### Instruction:", "<|EOT|>"}, NULL},
    {"command-r", {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"}, NULL},
    {"llama3.1", {"<|start_header_id|>", "<|end_header_id|>", "Cutting Knowledge Date"}, NULL},
    {"llama3", {"<|start_header_id|>", "<|end_header_id|>"}, NULL},
    {"llama4", {"<|header_start|>", "<|header_end|>"}, NULL},
    {"minicpm", {"<用户>"}, NULL},
    {"deepseek2", {"'Assistant: ' + message['content'] + eos_token"}, NULL},
    {"deepseek-r1", {"<｜User｜>", "<｜Assistant｜><think>"}, NULL},
    {"deepseek-r1-v1", {"<｜User｜>", "<｜Assistant｜>", "</think>"}, NULL},
    {"deepseek3", {"<｜User｜>", "<｜Assistant｜>"}, NULL},
    {"exaone3", {"[|system|]", "[|assistant|]", "[|endofturn|]"}, NULL},
    {"exaone3", {"'[|' + message['role'] + '|]'", "[|endofturn|]"}, NULL},
    {"granite", {"<|start_of_role|>"}, NULL},
    {"solar", {"### User:", "### Assistant:"}, NULL},
};

// Where there is no template, or none that is known: control tokens that only one of them uses.
static const Sign token_signs[] = {
    {"phi4", {"<|im_start|>", "<|im_sep|>"}, NULL},
    {"chatml", {"<|im_start|>", "<|im_end|>"}, NULL},
    {"llama3", {"<|start_header_id|>", "<|eot_id|>"}, NULL},
    {"llama4", {"<|header_start|>", "<|eot|>"}, NULL},
    {"gemma", {"<start_of_turn>", "<end_of_turn>"}, NULL},
    {"phi3", {"<|user|>", "<|assistant|>", "<|end|>"}, NULL},
    {"mistral-v7-tekken", {"[INST]", "[SYSTEM_PROMPT]"}, NULL},
    {"mistral-v3", {"[INST]", "[/INST]"}, NULL},
    {"deepseek3", {"<｜User｜>", "<｜Assistant｜>"}, NULL},
    {"command-r", {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"}, NULL},
    {"granite", {"<|start_of_role|>", "<|end_of_role|>"}, NULL},
    {"openchat", {"<|end_of_turn|>"}, NULL},
};

enum { N_TEMPLATES = sizeof templates / sizeof *templates };

const ChatTemplate *chat_template_at(int i) {
    return i >= 0 && i < N_TEMPLATES ? &templates[i] : NULL;
}

const char *chat_template_name(const ChatTemplate *t) {
    return t->name;
}

const ChatTemplate *chat_template_by_name(const char *name) {
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        if (strcmp(name, aliases[i].alias) == 0) name = aliases[i].name;
    }
    for (int i = 0; i < N_TEMPLATES; i++) {
        if (strcmp(name, templates[i].name) == 0) return &templates[i];
    }
    return NULL;
}

static bool contains(GgufStr s, const char *text) {
    size_t n = strlen(text);
    const char *at = s.ptr, *end = s.ptr + s.len;
    while (at < end && (size_t)(end - at) >= n) {
        at = memchr(at, text[0], (size_t)(end - at) - n + 1);
        if (!at) return false;
        if (memcmp(at, text, n) == 0) return true;
        at++;
    }
    return false;
}

static const ChatTemplate *recognise(GgufStr jinja) {
    char name[64];
    if (jinja.len < sizeof name) {  // some files carry a name
        memcpy(name, jinja.ptr, jinja.len);
        name[jinja.len] = 0;
        const ChatTemplate *t = chat_template_by_name(name);
        if (t) return t;
    }
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        bool fits = !signs[i].without || !contains(jinja, signs[i].without);
        for (int k = 0; k < 3 && fits && signs[i].has[k]; k++)
            fits = contains(jinja, signs[i].has[k]);
        if (fits) return chat_template_by_name(signs[i].name);
    }
    return NULL;
}

static bool has_special(const Tokenizer *tok, const char *text) {
    int32_t id = tokenizer_find(tok, text, strlen(text));
    if (id < 0) return false;
    TokenKind kind = tokenizer_token_kind(tok, id);
    return kind == TOKEN_CONTROL || kind == TOKEN_USER;
}

static const ChatTemplate *from_tokens(const Tokenizer *tok) {
    for (size_t i = 0; i < sizeof token_signs / sizeof *token_signs; i++) {
        bool fits = true;
        for (int k = 0; k < 3 && fits && token_signs[i].has[k]; k++) {
            fits = has_special(tok, token_signs[i].has[k]);
        }
        if (fits) return chat_template_by_name(token_signs[i].name);
    }
    return NULL;
}

Status chat_template_detect(const Gguf *g, const Tokenizer *tok, Notice notice,
                            const ChatTemplate **out, Error *err) {
    GgufStr jinja = {"", 0};
    bool found;
    *out = NULL;
    Status st = gguf_get_str(g, "tokenizer.chat_template", &jinja, &found, err);
    if (st != OK) return st;
    if (!found || jinja.len == 0) {
        *out = from_tokens(tok);
        if (*out) {
            notice_say(notice, "%s has no chat template: '%s' is used, by its special tokens",
                       gguf_path(g), (*out)->name);
        } else {
            notice_say(notice,
                       "%s has no chat template: it seems to be a base model, which continues "
                       "a text but was not trained to chat",
                       gguf_path(g));
        }
        return OK;
    }
    *out = recognise(jinja);
    if (*out && strcmp((*out)->name, "zephyr") == 0 && tokenizer_eos(tok) >= 0) {
        // Its turns end with the vocabulary's own EOS.
        GgufStr eos = tokenizer_token_text(tok, tokenizer_eos(tok));
        if (eos.len == 13 && memcmp(eos.ptr, "<|endoftext|>", 13) == 0) {
            *out = chat_template_by_name("zephyr-endoftext");
        }
    }
    if (*out) return OK;
    const ChatTemplate *guess = from_tokens(tok);
    *out = guess ? guess : chat_template_by_name("chatml");
    notice_say(notice,
               "%s: its chat template is not known to this program: '%s' is used%s; "
               "--chat-template chooses another",
               gguf_path(g), (*out)->name, guess ? ", by its special tokens" : "");
    return OK;
}
