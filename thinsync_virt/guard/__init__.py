"""The service that outlives the others: leases; thaws, resumes, unsuspends."""
