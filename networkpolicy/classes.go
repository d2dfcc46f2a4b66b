package networkpolicy

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// selectorUse is a choice of pods that profiles of the node name.
type selectorUse struct {
	choice
	id      uint64
	users   int
	classes map[*classUse]bool // those of the pods it chooses
}

// classUse is a Class and the pods that are of it.
type classUse struct {
	id        Class
	key       string
	selectors []*selectorUse
	names     map[portName]uint16 // of those that profiles name
	pods      int
}

// useSelector has a choice made among all pods, as long as profiles name it.
func (w *World) useSelector(c choice) *selectorUse {
	key := c.key()
	s := w.selectors[key]
	if s == nil {
		s = &selectorUse{choice: c, id: w.id(), classes: make(map[*classUse]bool)}
		w.selectors[key] = s
		for _, p := range w.pods {
			if w.chooses(s, p) {
				p.chosen = append(p.chosen, s) // ids rise
				w.classify(p)
			}
		}
	}
	s.users++
	return s
}

func (w *World) dropSelector(s *selectorUse) {
	if s.users--; s.users > 0 {
		return
	}
	delete(w.selectors, s.key())
	for _, p := range w.pods {
		if i := slices.Index(p.chosen, s); i >= 0 {
			p.chosen = slices.Delete(slices.Clone(p.chosen), i, i+1)
			w.classify(p)
		}
	}
}

func (w *World) useName(n portName) {
	if w.names[n]++; w.names[n] == 1 {
		w.classifyNamed(n)
	}
}

func (w *World) dropName(n portName) {
	if w.names[n]--; w.names[n] == 0 {
		delete(w.names, n)
		w.classifyNamed(n)
	}
}

func (w *World) classifyNamed(n portName) {
	for _, p := range w.pods {
		if _, has := p.names[n]; has {
			w.classify(p)
		}
	}
}

func (w *World) chooses(s *selectorUse, p *pod) bool {
	return p.concerned && s.matches(p.namespace, w.namespaces[p.namespace], p.labels)
}

// choose finds which selectors choose a pod.
func (w *World) choose(p *pod) {
	p.chosen = nil
	for _, s := range w.selectors {
		if w.chooses(s, p) {
			p.chosen = append(p.chosen, s)
		}
	}
	slices.SortFunc(p.chosen, func(a, b *selectorUse) int { return cmp.Compare(a.id, b.id) })
	w.classify(p)
}

// classify finds a pod's class.
func (w *World) classify(p *pod) {
	key, names := w.classKey(p)
	if p.class != nil && p.class.key == key {
		return
	}
	if old := p.class; old != nil {
		p.class = nil
		if old.pods--; old.pods == 0 {
			w.dropClass(old)
		}
	}
	if key == "" {
		return
	}
	class := w.classes[key]
	if class == nil {
		class = &classUse{id: Class(w.id()), key: key, selectors: slices.Clone(p.chosen), names: names}
		w.classes[key] = class
		for _, s := range class.selectors {
			s.classes[class] = true
		}
		w.generation++
	}
	class.pods++
	p.class = class
}

func (w *World) dropClass(c *classUse) {
	delete(w.classes, c.key)
	for _, s := range c.selectors {
		delete(s.classes, c)
	}
	w.generation++
}

// classKey is the same for pods that are of one class, and empty for those that no profile names.
func (w *World) classKey(p *pod) (string, map[portName]uint16) {
	if !p.concerned {
		return "", nil
	}
	var key []byte
	for _, s := range p.chosen {
		key = binary.BigEndian.AppendUint64(key, s.id)
	}
	var names map[portName]uint16
	var list []portName
	for n, number := range p.names {
		if w.names[n] > 0 {
			if names == nil {
				names = make(map[portName]uint16)
			}
			names[n] = number
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b portName) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol))
	})
	for _, n := range list {
		// The id 0 is no selector's.
		key = binary.BigEndian.AppendUint64(key, 0)
		key = append(key, n.name...)
		key = append(key, 0, n.protocol)
		key = binary.BigEndian.AppendUint16(key, names[n])
	}
	return string(key), names
}
