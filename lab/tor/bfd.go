package tor

import (
	"slices"
	"text/template"
	"time"
)

// BFD watches the path to a neighbour with FRR's or BIRD's own BFD; an embedded router has none.
type BFD struct {
	Interval   time.Duration // of packets, both ways; whole milliseconds
	Multiplier uint8
	// Graceful has BIRD take the loss of the path for a restart of the neighbour, whose routes it keeps meanwhile (`bfd graceful`).
	// FRR knows no such choice.
	Graceful bool
}

// Milliseconds is the interval as the routers take it.
func (b BFD) Milliseconds() int64 { return b.Interval.Milliseconds() }

// Mode is BIRD's word for what BFD does to the session.
func (b BFD) Mode() string {
	if b.Graceful {
		return "graceful"
	}
	return "on"
}

// HasBFD reports whether any neighbour is watched.
func (n Node) HasBFD() bool {
	return slices.ContainsFunc(n.Neighbors, func(n Neighbor) bool { return n.BFD != nil })
}

var bfddConf = template.Must(template.New("bfdd.conf").Parse(`! {{.Name}}; written by hostfabric-lab.
frr defaults datacenter
hostname {{.Name}}
bfd
{{- range .Neighbors}}{{$name := .Name}}{{with .BFD}}
 profile {{$name}}
  detect-multiplier {{.Multiplier}}
  receive-interval {{.Milliseconds}}
  transmit-interval {{.Milliseconds}}
 exit
{{- end}}{{end}}
exit
`))
