#!/bin/sh
# Writes fresh secrets as a .env file: sh docker/secrets.sh > docker/.env
set -eu
umask 077
fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in RAY_AUTH_TOKEN POSTGRES_PASSWORD MLFLOW_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY; do
  echo "$name=$(fresh)"
done
