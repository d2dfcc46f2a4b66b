package networkpolicy

import "net/netip"

// Direction is which way packets go, seen from the pod that policies select.
type Direction int

// Directions of packets. They are indices.
const (
	Ingress Direction = iota
	Egress
)

var directions = [...]Direction{Ingress, Egress}

func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// Class stands for all pods that the policies of a node treat alike: the same selectors choose them, and the
// names of ports that policies use mean the same numbers to them. With it a set needs one element for a
// thousand pods.
type Class uint32

// Ports is a range of ports, of one protocol or of a range of protocols.
type Ports struct {
	FirstProtocol, LastProtocol uint8
	First, Last                 uint16
}

// Everything is all ports of all protocols, those without ports included.
var Everything = Ports{0, 255, 0, 65535}

// Block allows ports to, or from, a range of addresses of one family.
type Block struct {
	First, Last netip.Addr
	Ports       []Ports
}

// Profile is what pods allow in one direction. All else is refused to them. A Profile never changes.
type Profile struct {
	// Name is that of one set of policies as they were at one time. It is not given again.
	Name      string
	Direction Direction
	// Anyone are ports that are open to every address.
	Anyone []Ports
	// Classes are ports that are open to pods. It is nil if the policies name no pods.
	Classes map[Class][]Ports
	// Blocks are disjoint. HasBlocks tells whether there may be some.
	Blocks    []Block
	HasBlocks bool
}

// Table is what a node enforces.
type Table struct {
	// Classes are those of the addresses of all pods of the cluster that some profile may name.
	Classes map[netip.Addr]Class
	// Isolated are the profiles of the pods of this node that policies select, by their addresses, for each
	// Direction. An address that is not in it is not restricted.
	Isolated [2]map[netip.Addr]*Profile
}
