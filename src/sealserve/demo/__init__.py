"""The demonstration: the whole story on one machine, with real parts, step by step.

It runs the very cluster that ``sealserve up`` runs, puts a tap on the wire in front of the gateway, and afterwards
looks for plaintext where none may be: on that wire, in the gateway's memory, and in everything the platform has on
its disk.
"""
