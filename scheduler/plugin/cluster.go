package plugin

import (
	"maps"
	"slices"
)

// Cluster is the nodes of a cluster, in the order in which they are looked at, with what was counted of them. When a
// node changes, the counts follow without a look at the others, so that a placement costs what has changed since the
// one before. It is not safe for concurrent use: one cycle runs at a time.
type Cluster struct {
	// Nodes must be changed by Put alone.
	Nodes  []*Node
	places map[string]int // of nodes, by name

	images     map[string]int64 // how many nodes have each image
	topologies map[string]*topology
	held       map[heldKey]*heldTerm
	selections map[string]*selection
	tallies    map[tallied]*tally
	used       int64 // rises with each use of a tally or selection, so that what was not used for long goes

	changes journal
}

// NewCluster is a cluster of nodes, which stay in this order.
func NewCluster(nodes []*Node) *Cluster {
	c := &Cluster{
		Nodes: make([]*Node, len(nodes)), places: make(map[string]int, len(nodes)),
		images: make(map[string]int64), topologies: make(map[string]*topology), held: make(map[heldKey]*heldTerm),
		selections: make(map[string]*selection), tallies: make(map[tallied]*tally),
	}
	for i, n := range nodes {
		c.places[n.Name] = i
		c.Nodes[i] = n.in(i)
	}
	for _, n := range c.Nodes {
		c.countImages(n, 1)
		c.hold(n, 1)
	}
	return c
}

// in is n at a place in a cluster.
func (n *Node) in(place int) *Node {
	placed := *n
	placed.place = place
	return &placed
}

// Node is the node with a name, or nil.
func (c *Cluster) Node(name string) *Node {
	if i, ok := c.places[name]; ok {
		return c.Nodes[i]
	}
	return nil
}

// Put takes in another state of a node that it has. Snapshots made before see it, too.
func (c *Cluster) Put(n *Node) {
	i := c.places[n.Name]
	old := c.Nodes[i]
	c.Nodes[i] = n.in(i)
	n = c.Nodes[i]
	if n.Node != old.Node {
		if !maps.Equal(n.Labels, old.Labels) { // it is in other domains now
			*c = *NewCluster(c.Nodes)
			return
		}
		c.countImages(old, -1)
		c.countImages(n, 1)
	}
	if !slices.Equal(n.choosy, old.choosy) {
		c.hold(old, -1)
		c.hold(n, 1)
	}
	c.changes.add(i, len(c.Nodes))
}

// Try calls f while n stands in the place of the node of its name.
func (c *Cluster) Try(n *Node, f func()) {
	old := c.Node(n.Name)
	c.Put(n)
	defer c.Put(old)
	f()
}

func (c *Cluster) countImages(n *Node, sign int64) {
	for name := range n.images {
		if c.images[name] += sign; c.images[name] == 0 {
			delete(c.images, name)
		}
	}
}

// journal is the places of the nodes that have changed last.
type journal struct {
	places []int
	total  int64 // how many changes there were in all
}

// leastJournal is how many changes are kept at least; else as many as there are nodes, for beyond that it is cheaper
// to look at all.
const leastJournal = 1024

func (j *journal) add(place, nodes int) {
	keep := max(nodes, leastJournal)
	if len(j.places) >= 2*keep {
		j.places = append(j.places[:0], j.places[len(j.places)-keep:]...)
	}
	j.places = append(j.places, place)
	j.total++
}

// since are the places of the nodes that have changed since there were total changes; ok is false if not all are known.
func (j *journal) since(total int64) (places []int, ok bool) {
	missed := int(j.total - total)
	if missed > len(j.places) {
		return nil, false
	}
	return j.places[len(j.places)-missed:], true
}

// topology is to which domain each node belongs: to that of its value of a label. Domains are numbered.
type topology struct {
	of      []int32 // by place of the node; -1: it lacks the label
	domains int
}

// topology is that of a label. Labels do not change in the life of a Cluster.
func (c *Cluster) topology(key string) *topology {
	if t := c.topologies[key]; t != nil {
		return t
	}
	t := &topology{of: make([]int32, len(c.Nodes))}
	numbers := make(map[string]int32)
	for i, n := range c.Nodes {
		value, ok := n.Labels[key]
		if !ok {
			t.of[i] = -1
			continue
		}
		number, ok := numbers[value]
		if !ok {
			number = int32(len(numbers))
			numbers[value] = number
		}
		t.of[i] = number
	}
	t.domains = len(numbers)
	c.topologies[key] = t
	return t
}

// counted is how much there is in each domain of a topology.
type counted struct {
	*topology
	amounts []int64
	total   int64
}

func (c *Cluster) newCounted(key string) counted {
	t := c.topology(key)
	return counted{topology: t, amounts: make([]int64, t.domains)}
}

// add adds to the domain of the node at a place, if it is in any.
func (c *counted) add(place int, amount int64) {
	if domain := c.of[place]; domain >= 0 {
		c.amounts[domain] += amount
		c.total += amount
	}
}

// at is how much there is in the domain of n; ok is false if n is in none.
func (c *counted) at(n *Node) (amount int64, ok bool) {
	domain := c.of[n.place]
	if domain < 0 {
		return 0, false
	}
	return c.amounts[domain], true
}

// heldTerm is an affinity term that pods on nodes have, and how many have it in each domain.
type heldTerm struct {
	kind heldKind
	term *term
	counted
}

// heldKind is what a term means for pods that come: those that it selects must stay away, or are wanted as much as
// the weight says.
type heldKind struct {
	repels bool
	weight int64
}

// heldKey is by what a held term is known.
type heldKey struct {
	heldKind
	term string
}

// affinityWeight is how much the required affinity of a pod counts as a wish, so that its friends come to it.
const affinityWeight = 1

// hold counts the terms of the pods on n, or, with sign -1, does so no more.
func (c *Cluster) hold(n *Node, sign int64) {
	for _, pod := range n.choosy {
		for i := range pod.antiAffinity {
			c.holdTerm(n, &pod.antiAffinity[i], heldKind{repels: true}, sign)
		}
		for i := range pod.affinity {
			c.holdTerm(n, &pod.affinity[i], heldKind{weight: affinityWeight}, sign)
		}
		for i := range pod.preferredAffinity {
			c.holdTerm(n, &pod.preferredAffinity[i], heldKind{weight: pod.preferredAffinity[i].weight}, sign)
		}
		for i := range pod.preferredAntiAffinity {
			c.holdTerm(n, &pod.preferredAntiAffinity[i], heldKind{weight: -pod.preferredAntiAffinity[i].weight}, sign)
		}
	}
}

func (c *Cluster) holdTerm(n *Node, t *term, kind heldKind, sign int64) {
	key := heldKey{kind, t.key}
	h := c.held[key]
	if h == nil {
		h = &heldTerm{kind: kind, term: t, counted: c.newCounted(t.topologyKey)}
		c.held[key] = h
	}
	h.add(n.place, sign)
	if h.total == 0 { // a term of nodes outside of its domains comes to nothing, too
		delete(c.held, key)
	}
}
