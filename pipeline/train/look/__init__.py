"""`hilum look`: one page that shows what a network does with one image, from its own tensors."""
