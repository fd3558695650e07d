"""The interactive page: what is in its charts, and how large searches fare."""

import json
import math
import re
import time

from vpetl_ray.results.page_charts import importance_chart, parallel_chart, position_chart
from vpetl_ray.results.records import TrialState
from vpetl_ray.results.search_page import PageFacts, write_search_page

FACTS = PageFacts(
    name="big", backbone="swin3d_nano", backbone_params=576_676, data="demo", budget=40_000
)


def records_of(make_record, count):
    widths = (2, 4, 8, 16)
    records = []
    for i in range(count):
        config = {
            "petl.patt.targets": ("kv", "qkv", None)[i % 3],
            "petl.patt.d_bottle": None if i % 3 == 2 else widths[i % 4],
            "petl.patt.scale": None if i % 3 == 2 else 0.1 + 0.001 * i,
            "training.learning_rate": 0.001 * (1 + i % 97),
        }
        state = TrialState.INFEASIBLE if i % 20 == 7 else TrialState.COMPLETE
        top1 = None if state is TrialState.INFEASIBLE else 50 + 30 * math.sin(i) ** 2
        records.append(
            make_record(i, 1000 + 37 * i, top1, state, config=config, at_seconds=float(i))
        )
    return records


def test_two_thousand_trials_are_drawn_in_a_moment(make_record, tmp_path):
    records = records_of(make_record, 2000)
    start = time.process_time()
    path = write_search_page(tmp_path, FACTS, records, is_running=False)
    assert time.process_time() - start < 10
    assert path.stat().st_size < 8_000_000
    text = path.read_text()
    [found] = re.findall(r"const CHARTS = (\{.*?\});\nfor ", text, re.DOTALL)
    first = json.loads(found.replace("<\\/", "</"))["chart0"]["data"]
    shown = [len(trace["x"]) for trace in first if trace["mode"] == "markers"]
    assert sum(shown) == 2000


def test_what_a_config_lacks_stands_below_what_others_have(make_record):
    chart = parallel_chart(records_of(make_record, 40))
    axes = {axis["label"]: axis for axis in chart.data[0]["dimensions"]}
    targets = axes["patt.targets"]
    assert targets["ticktext"] == ["-", "kv", "qkv"]
    assert [targets["values"][i] for i in (0, 1, 2)] == [1, 2, 0]
    scale = axes["patt.scale"]
    assert scale["ticktext"][0] == "-"
    assert min(scale["values"]) == scale["tickvals"][0] < 0.1
    assert list(axes)[-2:] == ["parameters", "top-1 (%)"]
    assert len(axes["top-1 (%)"]["values"]) == 38  # two are infeasible


def test_charts_that_cannot_be_drawn_say_why(make_record):
    assert "when the search is over" in importance_chart(None).note
    lacking = {"missing_because": "3 choices need 20 trials", "positions": []}
    assert importance_chart(lacking).note == "Not known: 3 choices need 20 trials."
    assert position_chart(lacking).layout is None
    assert parallel_chart(records_of(make_record, 1)).layout is None


def test_words_of_a_user_are_text_and_end_no_script(make_record, tmp_path):
    record = make_record(0, name="</script><b>x", reason=None)
    facts = PageFacts(
        name="a <i> & b", backbone="swin3d_nano", backbone_params=576_676, data="demo"
    )
    text = write_search_page(tmp_path, facts, [record], is_running=True).read_text()
    own = text[text.rindex("const CHARTS") :]
    assert own.count("</script>") == 1
    assert "<h1>a &lt;i&gt; &amp; b</h1>" in text
    assert "<td>&lt;/script&gt;&lt;b&gt;x</td>" in text
