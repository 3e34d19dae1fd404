# What every Makefile here agrees on.

SHELL := /bin/bash

# The certificates that the user named for pip hold for uv and for downloads too.
ifdef PIP_CERT
ifndef SSL_CERT_FILE
export SSL_CERT_FILE := $(PIP_CERT)
endif
endif
