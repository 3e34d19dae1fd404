"""Several tasks on shared experts: MMoE and the ESMM factorisation."""
