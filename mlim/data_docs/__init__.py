"""Great Expectations' pages (Data Docs) as files that load nothing: readable offline, on a telephone and in the dark.

The library's templates fetch styles, scripts and logos from other hosts. Those that do are replaced here by templates
of ours, through the setting `view` of great_expectations.yml; everything else is the library's.
"""
