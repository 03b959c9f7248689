// Help texts: examples first, each fits a screen. The man page (docs/plumb.1) says the same at
// length.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define MODEL_OPTIONS                                                                            \
    "  -m, --model FILE          GGUF file (any part of a split one); default: the demo model\n" \
    "  -t, --threads N           default: physical cores\n"                                      \
    "  --backend NAME            see `plumb backends`; default: the fastest that can run\n"      \
    "  -ngl, --gpu-layers N      layers on the GPU, counted from the last; 0: the CPU alone\n"   \
    "  --device N                which of its devices; --list-devices shows them\n"              \
    "  --cpu-isa NAME            kernels of the cpu backend; --no-repack: as in the file\n"

#define SESSION_OPTIONS                                                   \
    "  -c, --ctx-size N          context in tokens; 0: from the model\n"  \
    "  -b, --batch-size N        prompt tokens evaluated at once (512)\n" \
    "  -ctk, -ctv TYPE           types of the KV cache: f16, f32, q8_0\n"

#define SAMPLING_OPTIONS                                                                       \
    "  -n, --predict N           tokens to make; -1 until the end, 0 reads the prompt only\n"  \
    "  --temp 0.8 --top-k 40 --top-p 0.95 --min-p 0.05 --typical 1    0 at --temp is greedy\n" \
    "  --repeat-penalty 1 --repeat-last-n 64 --presence-penalty 0 --frequency-penalty 0\n"     \
    "  -s, --seed N              same seed, same text; -1: a new one\n"                        \
    "  -l, --logit-bias ID+BIAS  for example 29905+1.5 or 2-inf; may be repeated\n"            \
    "  --stop TEXT               ends the answer; may be repeated\n"                           \
    "  --ignore-eos, --special   go on past the end; show control tokens\n"                    \
    "  --lookup, --lookup-max N  drafts of up to N (7) tokens from what came before: same text\n"

static const struct {
    const char *command, *text;
} texts[] = {
    {"",
     "plumb runs GGUF language models and says how fast this machine could.\n"
     "\n"
     "  plumb run \"What is the capital of France?\"     the demo model answers\n"
     "  plumb chat -m model.gguf                       a conversation\n"
     "  plumb bench -m model.gguf                      tokens a second, share of the bandwidth\n"
     "  plumb inspect model.gguf                       what is in a file, and what is odd\n"
     "\n"
     "Commands:\n"
     "  run         one prompt, one answer\n"
     "  chat        a conversation, with history\n"
     "  inspect     metadata, tensors, what loading needs\n"
     "  tokenize    text to ids, ids to text\n"
     "  bench       speed of prefill and decode, beside this machine's memory\n"
     "  perplexity  how well a model predicts a text; KL divergence between two\n"
     "  quantize    a smaller file of the same model\n"
     "  trace       every component of a prompt's pass, to a file\n"
     "  verify      is a backend, or another engine's trace, right; if not, where and why\n"
     "  synth       a model of a real shape with random weights, to measure speed\n"
     "  backends    what can compute here, and why the rest cannot\n"
     "  help        this; help COMMAND; help exit-codes\n"
     "\n"
     "`plumb COMMAND --help` has the options; `man plumb` has all of it.\n"},
    {"run",
     "plumb run \"What is the capital of France?\"\n"
     "plumb run -m model.gguf -f prompt.txt --temp 0 -n 200\n"
     "echo \"Once upon a time\" | plumb run -m model.gguf --no-chat-template --json\n"
     "\n"
     "Prints the answer on stdout, one line of figures on stderr.\n"
     "\n" MODEL_OPTIONS "  -p, --prompt TEXT         or as a plain argument, or on stdin\n"
     "  -f, --file FILE           the prompt from a file; - is stdin\n"
     "  --tokens \"1,529\"          the prompt as token ids\n"
     "  -sys, --system-prompt TEXT\n"
     "  --chat-template NAME      instead of the file's own (`plumb tokenize --list-templates`)\n"
     "  --no-chat-template        the prompt raw, as -no-cnv\n" SESSION_OPTIONS SAMPLING_OPTIONS
     "  --logprobs N              with --json: each token's log-probability and the N likeliest\n"
     "  --json, --color, -v       one JSON object; colour; details on stderr\n"
     "  --check-tensors           look at every weight for NaN first\n"},
    {"chat",
     "plumb chat\n"
     "plumb chat -m model.gguf -sys \"You are brief.\" --temp 0.7\n"
     "\n"
     "A conversation. Ctrl-C stops an answer, Ctrl-D ends. Without a terminal each line of stdin "
     "is a message.\n"
     "\n"
     "  /help            these         /system TEXT   a new system prompt; starts over\n"
     "  /clear           start over    /save FILE     write the conversation as JSON\n"
     "  /stats           figures       /load FILE     go on with a saved one\n"
     "  /exit            leave\n"
     "\n" MODEL_OPTIONS "  -sys, --system-prompt TEXT\n"
     "  --chat-template NAME      instead of the file's own\n" SESSION_OPTIONS SAMPLING_OPTIONS
     "  --color, -v               colour; details on stderr\n"},
    {"inspect",
     "plumb inspect model.gguf\n"
     "plumb inspect model.gguf --json | jq .tensors\n"
     "\n"
     "Metadata, tensors, sizes, what loading needs, and what is odd about the file. Works on "
     "vocabulary-only\n"
     "files and on any part of a split model. Without a file: the demo model.\n"
     "\n"
     "  -m, --model FILE    the file (or as a plain argument)\n"
     "  --tensors           list every tensor (on by default on a small model)\n"
     "  --check-tensors     look at every weight for NaN and infinity\n"
     "  --json              one object: metadata, tensors, warnings\n"
     "  -c, --ctx-size N    context for the memory estimate; 0: from the model\n"},
    {"tokenize",
     "plumb tokenize -m model.gguf -p \"Hello world\"\n"
     "plumb tokenize -m model.gguf -f text.txt --ids\n"
     "plumb tokenize -m model.gguf --decode \"1 15043 3186\"\n"
     "plumb tokenize -m model.gguf --chat -p \"Hello\"      what the model will really read\n"
     "\n"
     "  -m, --model FILE    vocabulary-only files too; default: the demo model\n"
     "  -p TEXT, -f FILE    the text (or a plain argument; -f - is stdin)\n"
     "  --ids               the ids alone, separated by spaces, on one line\n"
     "  --no-bos            do not put BOS first\n"
     "  --no-special        special tokens in the text stay text; with --decode they give none\n"
     "  --decode IDS        ids to text; a BOS that stands first is left out, unless --no-bos\n"
     "  --chat              through the chat template; -sys TEXT, --chat-template NAME\n"
     "  --list-templates    names of the chat templates known\n"
     "  --json              one object: ids, pieces, kinds, text\n"},
    {"bench",
     "plumb bench -m model.gguf\n"
     "plumb bench -m model.gguf --prompt-tokens 128,512 --gen-tokens 32 --context 0,2000 --json\n"
     "\n"
     "Tokens a second of prefill and decode: median, minimum and maximum of several runs, beside "
     "the memory\n"
     "bandwidth of this machine measured in the same run.\n"
     "\n" MODEL_OPTIONS SESSION_OPTIONS
     "  -p, --prompt-tokens LIST  prefill lengths (128,512); 0: none\n"
     "  -n, --gen-tokens LIST     decode lengths (32); 0: none\n"
     "  --context LIST            tokens in the cache before a decode (0)\n"
     "  -r, --runs N              runs of each (5), after one that does not count\n"
     "  --json                    one object\n"},
    {"perplexity",
     "plumb perplexity -m model.gguf -f text.txt -c 512\n"
     "plumb perplexity -m f16.gguf -f text.txt -c 512 --kl-base base.kl\n"
     "plumb perplexity -m q4.gguf  -f text.txt -c 512 --kl-against base.kl\n"
     "\n"
     "The text is cut into chunks of N tokens, each starting with BOS; the second half of each "
     "chunk is scored.\n"
     "The same definition, and so the same number, as llama.cpp's.\n"
     "\n" MODEL_OPTIONS "  -f, --file FILE           the text; - is stdin\n"
     "  -c, --ctx-size N          chunk length (512)\n"
     "  --chunks N                only the first N chunks\n"
     "  --kl-base FILE            write this model's probabilities\n"
     "  --kl-against FILE         KL divergence from those, and how often the first choice is the "
     "same\n"
     "  -ctk, -ctv TYPE           types of the KV cache: f16, f32, q8_0\n"
     "  --json                    one object\n"},
    {"quantize",
     "plumb quantize model-f16.gguf model-q4.gguf Q4_K_M\n"
     "plumb quantize --list\n"
     "\n"
     "Writes the model again with smaller weights. The output appears only when it is whole.\n"
     "\n"
     "  --list              the types there are\n"
     "  -t, --threads N     default: physical cores\n"
     "  --force             overwrite an output that exists\n"
     "  --allow-requantize  take an input that is quantized already\n"},
    {"synth",
     "plumb synth --shape tinyllama-1.1b --type Q4_K_M -o tinyllama-q4.gguf\n"
     "plumb synth --list\n"
     "\n"
     "A model of a real shape with seeded random weights: speed without a download. It talks "
     "nonsense.\n"
     "\n"
     "  --shape NAME        see --list\n"
     "  --type TYPE         as for quantize (Q4_K_M)\n"
     "  -o, --output FILE   where to\n"
     "  -s, --seed N        the same seed gives the same file (1)\n"
     "  -t, --threads N     default: physical cores\n"
     "  --force             overwrite an output that exists\n"},
    {"trace",
     "plumb trace -m model.gguf -p \"Why is the sky blue?\" -o sky.gguf\n"
     "plumb trace -m model.gguf --tokens 1,529,29989 --components q,k,v,logits -o qkv.gguf\n"
     "\n"
     "Writes what each component of each layer computes for a prompt, all tokens, as float32: a "
     "GGUF file\n"
     "whose tensors are named embd, blk.0.attn_norm, blk.0.q, ... norm, logits. One pass, nothing "
     "is sampled.\n"
     "\n" MODEL_OPTIONS SESSION_OPTIONS
     "  -p, --prompt TEXT         or as a plain argument, or on stdin; through the chat template\n"
     "  -f, --file FILE           the prompt from a file; - is stdin\n"
     "  --tokens \"1,529\"          the prompt as token ids\n"
     "  -sys TEXT, --chat-template NAME, --no-chat-template    as for run\n"
     "  -o, --output FILE         where to\n"
     "  --name PROMPT             puts PROMPT. before the names\n"
     "  --components LIST         only these: embd, attn_norm, q, k, v, q_rope, k_rope, kq, "
     "kq_soft_max, ...\n"
     "  --no-scores               all but kq and kq_soft_max, which grow with the prompt squared\n"
     "  --fault LIST              what a wrong engine would have written: \"P1,F1,X3\"; the faults "
     "are those\n"
     "                            that `plumb verify --self-test --verbose` lists\n"
     "  --force                   overwrite an output that exists\n"},
    {"verify",
     "plumb verify -m model.gguf                       is every backend right on this model?\n"
     "plumb verify -m model.gguf --against trace       is another engine's run right?\n"
     "plumb verify -m model.gguf --quick --json        one prompt; for CI\n"
     "plumb verify --self-test                         does verify see the faults it knows?\n"
     "\n"
     "Every component of every layer against a float64 oracle, from its own captured input. Names "
     "the first that\n"
     "is wrong and, where it can, why. Exit 0: right, 5: wrong. A trace is a GGUF, a safetensors "
     "file or a folder\n"
     "of .npy files (embd, blk.0.q, ..., logits, tokens); any part of it is enough.\n"
     "\n"
     "  -m, --model FILE          GGUF file; default: the demo model\n"
     "  -t, --threads N           default: physical cores\n"
     "  --backend NAME            may be repeated; default: all that can run; --list-devices\n"
     "  --device N                which of its devices\n"
     "  --cpu-isa NAME            kernels of the cpu backend; default: the best\n"
     "  -ctk, -ctv TYPE           types of the KV cache: f16, f32, q8_0\n"
     "  --quick, --full           one prompt of 20 tokens; all prompts, all rows, drift\n"
     "  --against TRACE           judge this run instead of a backend\n"
     "  --qk-layout gguf|hf|auto  how its q and k are paired: neighbours, halves; default: as it "
     "says, or as fits\n"
     "  -p, --prompt TEXT         what its prompt was made from, special tokens included\n"
     "  --allow-odd-prompt        faults of its prompt are warnings\n"
     "  --html FILE               the report as one page\n"
     "  --json, --color, -v       one JSON object a backend; colour; every row\n"
     "  --self-test, --fault ID   all the faults that verify knows, or one\n"},
    {"backends",
     "plumb backends\n"
     "\n"
     "What can compute on this machine, the devices of each, and why the rest cannot. --json for "
     "programs.\n"},
    {"exit-codes",
     "0  fine\n"
     "1  failed while running (a file could not be written, the prompt does not fit the context, "
     "...)\n"
     "2  usage: an option or argument makes no sense\n"
     "3  the model file is bad or not supported\n"
     "4  a backend or memory is not available\n"
     "5  verify found a mismatch\n"},
};

static const char *find(const char *command) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strcmp(texts[i].command, command) == 0) return texts[i].text;
    }
    return NULL;
}

int cli_help(const char *command) {
    fputs(find(command), stdout);
    return cli_finish(0);
}

int cmd_help(int argc, char **argv) {
    const char *topic = argc > 1 ? argv[1] : "";
    if (strcmp(topic, "help") == 0 || strcmp(topic, "--help") == 0 || strcmp(topic, "-h") == 0)
        topic = "";
    if (argc > 2 || !find(topic)) {
        return cli_failf(ERR_USAGE, "there is no help on '%s'; `plumb help` lists the commands",
                         argv[argc - 1]);
    }
    return cli_help(topic);
}
