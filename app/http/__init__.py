"""What a node shows to those who watch it, over HTTP. Imported only when --http is given: it takes 9 MiB."""
