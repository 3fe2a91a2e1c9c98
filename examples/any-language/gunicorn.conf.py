"""gunicorn with four workers, which accept from one listener, or each from its own (from gunicorn 25 on).

cutover run --listen 127.0.0.1:8080 -- \
    gunicorn --config examples/any-language/gunicorn.conf.py --bind 127.0.0.1:8080
"""

import os

chdir = os.path.dirname(os.path.abspath(__file__))
wsgi_app = "app:app"
reuse_port = True
workers = 4
graceful_timeout = 30  # s for the requests in hand
