"""Pages and pictures made from what lies in a run directory.

    from tunery.report import pages, pictures
    from tunery.report.page import Page, Table, section

    page = Page("Race on reviews.csv", "lora reaches .91 in 4 min; full is a tie at three times the size.", [
        section("Entrants", Table(["method", "accuracy", "seconds"], rows)),
        section("Cost", pictures.pareto(points, "training time", "accuracy", "Quality against time", unit="seconds")),
    ])
    pages.write(folder, page)      # report.html and report.md

Nothing here loads torch.
"""
