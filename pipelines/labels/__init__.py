"""What the sources of labelled data sets share: file formats, joint orders, checks."""
