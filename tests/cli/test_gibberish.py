"""examples/gibberish: its walk finds what its README says; traces of engines wrong on purpose."""
from harness import *

PROMPT = "What is the capital of France?"


def first_lines(trace, code=5):
    out = plumb("verify", "--against", trace, code=code)
    return out[out.index("\nfirst") + 1:] if "\nfirst" in out else ""


@test("the walk, step by step")
def _():
    folder = tmp("walk")
    os.mkdir(folder)
    script = os.path.join(ROOT, "examples", "gibberish", "run.sh")
    p = subprocess.run(["sh", script, folder], env=dict(os.environ, PLUMB=PLUMB),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    out = p.stdout.decode()
    assert p.returncode == 0, out + p.stderr.decode()
    steps = out.split("--- ")[1:]
    equal([s.splitlines()[0] for s in steps],
          ["P1,L3,F1,X3,T3,T4,T5", "P1,L3,F1,X3", "F1,X3", "X3"])
    for words in ("spelled out as text", "newline", "is EOS"):
        assert words in steps[0] and words not in steps[1], words
    for step in steps[:2]:
        assert "first divergence: blk.0.q " in step and "weights read transposed" in step, step
    assert "blk.0.ffn_act" in steps[2] and "gelu" in steps[2], steps[2]
    assert "l_out" in steps[3] and "clipped at +-10" in steps[3], steps[3]
    for name in ("gibberish", "prompt", "products", "activation"):
        with open(os.path.join(folder, name + ".html"), encoding="utf-8") as f:
            assert "blk.0" in f.read()


@test("a fault, all of a family, some components, ids")
def _():
    out = tmp("fault.gguf")
    plumb("trace", "--fault", "R2", "-p", PROMPT, "-o", out, "--components", "q,q_rope")
    line = first_lines(out)
    assert "blk.0.q_rope" in line and "base" in line, line
    plumb("trace", "--fault", "N1.final", "--tokens", "1,370,371,261", "-o", out, "--force",
          "--components", "l_out,norm,logits")
    line = first_lines(out)
    assert "divergence: norm " in line and "weight" in line, line


@test("errors")
def _():
    out = tmp("never.gguf")
    fails(2, "trace", "-p", "x", "-o", out, "--fault", "Z9", says=["no fault 'Z9'", "P1.q", "T7"])
    fails(2, "trace", "-p", "x", "-o", out, "--fault", ",", says="names no fault")
    fails(2, "trace", "-p", "x", "-o", out, "--fault", "P1,P5,N1,R1,X1,F1,L1,A1,A2,K1",
          says="16 faults at once")
    fails(2, "trace", "--tokens", "1,2", "-o", out, "--fault", "T3", says="nothing to tokenize")
    fails(2, "trace", "--tokens", "1,99999", "-o", out, "--fault", "P1", says="99999")
    assert not os.path.exists(out)


run_tests()
