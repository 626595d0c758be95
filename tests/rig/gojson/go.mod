module tutti.dev/rig/gojson

go 1.24
