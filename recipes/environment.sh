# Sourced by the other scripts: makes and enters a virtual environment with this checkout installed in it.
#   CMAL_VENV=FOLDER   use that environment (default: .venv in the checkout)
#   CMAL_EXTRAS=test   also install these extras
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${CMAL_VENV:-.venv}"
if [ ! -x "$venv/bin/python" ]; then
  echo "making the environment $venv"
  python3 -m venv "$venv"
fi
. "$venv/bin/activate"
requested="$(cat pyproject.toml; echo "${CMAL_EXTRAS:-}")"
stamp="$venv/.cmal-installed${CMAL_EXTRAS:+-$CMAL_EXTRAS}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$requested" ]; then
  echo "installing (torch and what it needs: some gigabytes the first time)"
  python -m pip install --quiet --disable-pip-version-check -e ".${CMAL_EXTRAS:+[$CMAL_EXTRAS]}"
  echo "$requested" > "$stamp"
fi
