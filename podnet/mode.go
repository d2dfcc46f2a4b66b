package podnet

import "fmt"

// Mode is how packets travel between the pods of different nodes.
type Mode string

const (
	// Route is by routes to the addresses of nodes, which must be on one link.
	Route Mode = "route"
	// VXLAN is in UDP packets between the addresses of nodes.
	VXLAN Mode = "vxlan"
)

// UnmarshalText reads a mode, as flags have it.
func (m *Mode) UnmarshalText(text []byte) error {
	switch mode := Mode(text); mode {
	case Route, VXLAN:
		*m = mode
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s", text, Route, VXLAN)
}

// MarshalText writes a mode.
func (m Mode) MarshalText() ([]byte, error) {
	if m == "" {
		m = Route
	}
	return []byte(m), nil
}
