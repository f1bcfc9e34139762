"""Matches in a catalog: the model that scores pairs of items, candidates and groups, and how good these are.

Functions take and give items, arrays and tables, never a recipe or a work folder: those are the steps' (`mlim.steps`).
"""
