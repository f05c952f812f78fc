# 75: stopped cleanly, to be started again. Launchers lose the code, so STATUS.json counts too, if this start wrote it.
status=@{out}/STATUS.json
if [ "$code" -ne 0 ] && grep -qs "\"start\": \"$THACK_START\"" "$status" && grep -q '"exit_code": 75' "$status"; then
    code=75
fi
[ "$code" -eq 75 ] || exit "$code"

restarts=${SLURM_RESTART_COUNT:-0}
if [ "$restarts" -ge @{max_requeues} ]; then
    echo "stopped and not requeued: restarted $restarts times, max_requeues is @{max_requeues}" >&2
elif scontrol requeue "@{identity}"; then
    echo "requeued after being stopped"
    exit 0
else
    echo "stopped and not requeued: scontrol requeue @{identity} failed" >&2
fi
echo "to continue: @{submit}, and this script; it resumes" >&2
exit 75
