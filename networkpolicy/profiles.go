package networkpolicy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// profileUse is what a set of policies says together, for the pods they select.
type profileUse struct {
	key       string
	name      string
	direction Direction
	pods      int

	anyone      []Ports
	anyoneNames []portName // of every pod that has them
	chosen      []podTerm
	blocks      []allowed
	blockNames  []blockName
	names       []portName // all that are named

	made       *Profile
	generation uint64 // of the classes in made
}

// podTerm allows ports of, or to, pods that a selector chooses.
type podTerm struct {
	selector *selectorUse
	ports    []Ports
	names    []portName
}

// blockName allows a named port of the pods whose addresses are in a block.
type blockName struct {
	spans []span
	name  portName
}

// isolate finds the profiles of a pod.
func (w *World) isolate(p *pod) {
	var policies []*policy
	if p.concerned && p.local {
		for _, policy := range w.policies[p.namespace] {
			if policy.subject.Matches(p.labels) {
				policies = append(policies, policy)
			}
		}
		slices.SortFunc(policies, func(a, b *policy) int { return cmp.Compare(a.id, b.id) })
	}
	for _, d := range directions {
		old := p.profiles[d]
		p.profiles[d] = w.useProfile(d, policies, p.names)
		if old != nil {
			w.dropProfile(old)
		}
	}
}

// useProfile is nil if the policies do not isolate in a direction, or leave it open all the same.
func (w *World) useProfile(d Direction, all []*policy, names map[portName]uint16) *profileUse {
	var policies []*policy
	for _, p := range all {
		if p.isolates[d] {
			policies = append(policies, p)
		}
	}
	if len(policies) == 0 || isOpen(d, policies) {
		return nil
	}
	key := profileKey(d, policies, names)
	use := w.profiles[key]
	if use == nil {
		use = &profileUse{key: key, name: fmt.Sprintf("%v-%d", d, w.id()), direction: d}
		w.profiles[key] = use
		w.compile(use, policies, names)
	}
	use.pods++
	return use
}

func isOpen(d Direction, policies []*policy) bool {
	return slices.ContainsFunc(policies, func(p *policy) bool {
		return slices.ContainsFunc(p.rules[d], func(r rule) bool { return r.anyone && slices.Contains(r.ports, Everything) })
	})
}

// profileKey is the same for pods that share a profile. Named ports of ingress are those of the pod itself.
func profileKey(d Direction, policies []*policy, names map[portName]uint16) string {
	key := []byte{byte(d)}
	for _, p := range policies {
		key = binary.BigEndian.AppendUint64(key, p.id)
		if d == Egress {
			continue
		}
		for _, r := range p.rules[d] {
			for _, n := range r.names {
				key = binary.BigEndian.AppendUint16(key, names[n]) // 0 is no port
			}
		}
	}
	return string(key)
}

// compile joins the rules of policies, those about the same pods together.
func (w *World) compile(use *profileUse, policies []*policy, names map[portName]uint16) {
	terms := make(map[*selectorUse]int)
	for _, p := range policies {
		for _, r := range p.rules[use.direction] {
			if use.direction == Ingress {
				r = r.resolve(names)
			}
			use.add(r)
			for _, n := range r.names {
				use.names = append(use.names, n)
				w.useName(n)
			}
			for _, c := range r.pods {
				s := w.useSelector(c)
				i, known := terms[s]
				if !known {
					i = len(use.chosen)
					terms[s] = i
					use.chosen = append(use.chosen, podTerm{selector: s})
				} else {
					w.dropSelector(s) // one use for one term
				}
				use.chosen[i].ports = append(use.chosen[i].ports, r.ports...)
				use.chosen[i].names = append(use.chosen[i].names, r.names...)
			}
		}
	}
	use.anyone = mergePorts(use.anyone)
}

// resolve replaces names of ports by the numbers they are for a pod.
func (r rule) resolve(names map[portName]uint16) rule {
	r.ports = slices.Clone(r.ports)
	for _, n := range r.names {
		if number, ok := names[n]; ok {
			r.ports = append(r.ports, Ports{n.protocol, n.protocol, number, number})
		}
	}
	r.names = nil
	return r
}

// add joins what a rule says of others than chosen pods.
func (use *profileUse) add(r rule) {
	if r.anyone {
		use.anyone = append(use.anyone, r.ports...)
		use.anyoneNames = append(use.anyoneNames, r.names...)
	}
	for _, spans := range r.blocks {
		for _, s := range spans {
			use.blocks = append(use.blocks, allowed{s, r.ports})
		}
		for _, n := range r.names {
			use.blockNames = append(use.blockNames, blockName{spans, n})
		}
	}
}

func (w *World) dropProfile(use *profileUse) {
	if use.pods--; use.pods > 0 {
		return
	}
	delete(w.profiles, use.key)
	for _, t := range use.chosen {
		w.dropSelector(t.selector)
	}
	for _, n := range use.names {
		w.dropName(n)
	}
}

// profile is the Profile as the classes are now.
func (use *profileUse) profile(w *World, owners map[netip.Addr]*pod) *Profile {
	if use.made != nil && use.generation == w.generation && len(use.blockNames) == 0 {
		return use.made
	}
	p := &Profile{Name: use.name, Direction: use.direction, Anyone: use.anyone, HasBlocks: len(use.blocks)+len(use.blockNames) > 0}
	if len(use.chosen)+len(use.anyoneNames) > 0 {
		p.Classes = use.classes(w)
	}
	ranges := use.blocks
	for addr, owner := range owners {
		if len(use.blockNames) == 0 {
			break
		}
		ranges = append(ranges[:len(ranges):len(ranges)], use.named(addr, owner)...)
	}
	p.Blocks = disjoint(ranges)
	use.made, use.generation = p, w.generation
	return p
}

// classes are the ports that are open to classes, or of classes.
func (use *profileUse) classes(w *World) map[Class][]Ports {
	all := make(map[Class][]Ports)
	add := func(c *classUse, ports []Ports, names []portName) {
		for _, n := range names {
			if number, ok := c.names[n]; ok {
				ports = append(ports[:len(ports):len(ports)], Ports{n.protocol, n.protocol, number, number})
			}
		}
		if len(ports) > 0 {
			all[c.id] = append(all[c.id], ports...)
		}
	}
	for _, t := range use.chosen {
		for c := range t.selector.classes {
			add(c, t.ports, t.names)
		}
	}
	if len(use.anyoneNames) > 0 {
		for _, c := range w.classes {
			add(c, nil, use.anyoneNames)
		}
	}
	for c, ports := range all {
		all[c] = mergePorts(ports)
	}
	return all
}

// named are the ports of a pod that are open because its address is in a block.
func (use *profileUse) named(addr netip.Addr, owner *pod) []allowed {
	var ports []Ports
	for _, b := range use.blockNames {
		number, ok := owner.names[b.name]
		if ok && slices.ContainsFunc(b.spans, func(s span) bool { return s.contains(addr) }) {
			ports = append(ports, Ports{b.name.protocol, b.name.protocol, number, number})
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return []allowed{{span{addr, addr}, ports}}
}
