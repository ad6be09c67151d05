"""What is put in the place of what, while a script is explained: in this process, and undone by nothing but its end."""
