"""Times of first passage.

What a user calls (`times`); on the line by quadrature (`line`), of an SDE on a grid (`grid`), of a chain (`chain`), each in a box
(`box`); the saddle that Eyring and Kramers ask for (`saddle`).
"""
