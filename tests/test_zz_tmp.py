import sys; sys.path.insert(0,'/work/main/scripts')
import docs, difflib
def test_x(tiny_llama):
    new=docs.cli_page(); old=docs.CLI.read_text()
    print("\n".join(difflib.unified_diff(old.splitlines(),new.splitlines(),lineterm="",n=0)))
