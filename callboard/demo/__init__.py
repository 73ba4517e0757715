"""`callboard demo`: a crew of actors reviews a Python source tree, and one of its processes is killed on the way.

findings    the words of the crew: what its actors ask each other, and what they give
crew        the actors: planner, inspector, reporter; the file to copy from
files, metrics, lint      the tools that they use on a tree
report      the review as Markdown
run         the whole demo: the processes, the kill, the look back
view        what it shows while it runs
summary     what it tells at the end, with the bars of `timeline` and the verdict of `proof`
"""
