"""What the machine has to be like for the stack: facts are gathered, pure checks turn them into findings.

`onecard doctor` shows all findings; `onecard up` stops at a refusal before anything starts.
"""
