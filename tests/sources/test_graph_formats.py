"""Files of other graph formats, as networkx writes them, are refused by name; edge lists pass. No Spark."""

import io

import networkx as nx
import pytest

from embedall_spark.errors import BadData
from embedall_spark.sources import graph_formats


def text_of(write, graph):
    buffer = io.BytesIO()
    write(graph, buffer)
    return buffer.getvalue()


GRAPH = nx.barabasi_albert_graph(40, 2, seed=1)
CYCLE = b"% made\n4 4\n2 4\n1 3\n2 4\n1 3\n"
OTHERS = {
    "GraphML": text_of(nx.write_graphml, GRAPH),
    "GEXF": text_of(nx.write_gexf, GRAPH),
    "GML": b'Creator "igraph version 1"\n' + text_of(nx.write_gml, GRAPH),
    "Pajek": text_of(nx.write_pajek, nx.relabel_nodes(GRAPH, str)),
    "MatrixMarket": b"%%MatrixMarket matrix coordinate real general\n% made\n3 3 2\n1 2 0.5\n2 3 1\n",
    "METIS": CYCLE,
    "DOT": b'graph "x" {\n a -- b;\n}\n',
    "JSON": b'{"src": 1, "dst": 2}\n',
    "an adjacency list": text_of(nx.write_adjlist, GRAPH),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_format_is_refused_with_the_way_out(name):
    with pytest.raises(BadData, match=rf"^in/a\.txt: {name}.*, not an edge list; ") as caught:
        graph_formats.check("in/a.txt", OTHERS[name])
    if name in ("GraphML", "GEXF", "GML", "Pajek", "an adjacency list"):
        assert "networkx.write_edgelist(networkx.read_" in str(caught.value) and "('in/a.txt')" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        text_of(nx.write_edgelist, GRAPH),
        text_of(nx.write_weighted_edgelist, nx.path_graph(3)),
        b"# SNAP\n# FromNodeId\tToNodeId\n1\t2\n",
        b"src dst weight time\n1 2 0.5 100\n2 3 1 101\n3 1 2 102\n",
        b"graph theory\ntheory graph\n* a\nstrict graph\n",
        b"a b\nto weight more 5\nx y 3\n",
        b"4 4\n1 2\n2 3\n3 4\n4 1\n",
        b"",
    ],
)
def test_an_edge_list_passes(content):
    graph_formats.check("a.txt", content)


def test_a_file_of_comments_names_its_path():
    with pytest.raises(BadData, match=r"^in: no edge found, only empty lines and comments"):
        graph_formats.check_inputs("in", [("in/a.txt", b"# a\n% b\n\n"), ("in/b.txt", b"#\n")])
    graph_formats.check_inputs("in", [("in/a.txt", b"# a\n"), ("in/b.txt", b"1 2\n")])
