#!/bin/sh
# Replaces the real next generation, and behaves as GREEN_PART says. The test binary implements the behaviours that a
# shell cannot (support/green.rs).
play() { "$GREEN_TEST" --exact support::green::plays_its_part --nocapture; }
case $GREEN_PART in
exit-1) exit 1 ;;
crash) kill -SEGV $$ ;;
hang) exec sleep 1000 ;;
look) (ls -l /proc/$$/fd >"$GREEN_OUT.$$") && mv "$GREEN_OUT.$$" "$GREEN_OUT" && exec "$GREEN_REAL" "$@" ;;
slow) while ! [ -e "$GREEN_OUT" ]; do sleep 0.01; done; exec "$GREEN_REAL" "$@" ;;
ready-by-a-stranger) GREEN_PART=ready-and-go play; exec sleep 1000 ;;
flooded) GREEN_PART=flood play >"$GREEN_OUT" 2>&1 & exec "$GREEN_REAL" "$@" ;;
*) exec "$GREEN_TEST" --exact support::green::plays_its_part --nocapture ;;
esac
