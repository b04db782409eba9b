"""Online changes of items: logged durably, laid over a gallery, folded into the next one."""
