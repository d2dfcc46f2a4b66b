package route

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Builder makes Tables. It works anew only on what a change is about. It is for one goroutine.
type Builder struct {
	secret    secretGetter
	ingresses map[Key]*compiled
	byHost    map[string]map[Key]*compiled
	dirty     map[string]bool
	table     *Table
	pools     map[Backend]*Pool
	users     map[Key]map[Key]bool // by Service, which Ingresses name it
	readers   map[Key]map[Key]bool // by Secret
	conflicts map[string]map[Key][]string
}

// NewBuilder returns a Builder without Ingresses. secret returns nil for a Secret that is not there.
func NewBuilder(secret func(Key) *corev1.Secret) *Builder {
	return &Builder{
		secret: secret, ingresses: make(map[Key]*compiled), byHost: make(map[string]map[Key]*compiled),
		dirty: make(map[string]bool), table: &Table{hosts: make(map[string]*host)}, pools: make(map[Backend]*Pool),
		users: make(map[Key]map[Key]bool), readers: make(map[Key]map[Key]bool), conflicts: make(map[string]map[Key][]string),
	}
}

// Set takes an Ingress as it is now, with what its Secrets are now.
func (b *Builder) Set(ing *networkingv1.Ingress) {
	b.Delete(Key{Namespace: ing.Namespace, Name: ing.Name})
	c := compile(ing, b.secret, b.pool)
	b.ingresses[c.key] = c
	for name := range c.hosts {
		if b.byHost[name] == nil {
			b.byHost[name] = make(map[Key]*compiled)
		}
		b.byHost[name][c.key] = c
		b.touch(name, c)
	}
	note(b.users, c.services, c.key)
	note(b.readers, c.secrets, c.key)
}

// Delete takes an Ingress away.
func (b *Builder) Delete(key Key) {
	c, ok := b.ingresses[key]
	if !ok {
		return
	}
	delete(b.ingresses, key)
	for name := range c.hosts {
		if delete(b.byHost[name], key); len(b.byHost[name]) == 0 {
			delete(b.byHost, name)
		}
		b.touch(name, c)
	}
	forget(b.users, c.services, key)
	forget(b.readers, c.secrets, key)
}

func (b *Builder) touch(name string, c *compiled) {
	b.dirty[name] = true
	if c.hosts[name].www {
		b.dirty[www(name)] = true
	}
}

func note(index map[Key]map[Key]bool, names []Key, key Key) {
	for _, name := range names {
		if index[name] == nil {
			index[name] = make(map[Key]bool)
		}
		index[name][key] = true
	}
}

func forget(index map[Key]map[Key]bool, names []Key, key Key) {
	for _, name := range names {
		if delete(index[name], key); len(index[name]) == 0 {
			delete(index, name)
		}
	}
}

// ReadersOf are the Ingresses that depend on a Secret.
func (b *Builder) ReadersOf(secret Key) []Key { return slices.Collect(maps.Keys(b.readers[secret])) }

// PoolsOf are the pools of a Service that Ingresses name.
func (b *Builder) PoolsOf(service Key) (pools []*Pool) {
	seen := make(map[*Pool]bool)
	for key := range b.users[service] {
		b.ingresses[key].eachPool(func(p *Pool) {
			if p.Service == service && !seen[p] {
				seen[p] = true
				pools = append(pools, p)
			}
		})
	}
	return pools
}

func (c *compiled) eachPool(visit func(*Pool)) {
	if c.fallback != nil {
		visit(c.fallback.Pool)
	}
	for _, s := range c.hosts {
		for _, l := range s.locations {
			visit(l.Pool)
		}
	}
}

// pool is the one of a backend, so that all its locations see the same endpoints.
func (b *Builder) pool(backend Backend) *Pool {
	p := b.pools[backend]
	if p == nil {
		p = &Pool{Backend: backend}
		b.pools[backend] = p
	}
	return p
}

// Problems are what of an Ingress is not obeyed, as of the last Table.
func (b *Builder) Problems(key Key) []string {
	c := b.ingresses[key]
	if c == nil {
		return nil
	}
	problems := slices.Clone(c.problems)
	for _, name := range slices.Sorted(maps.Keys(c.hosts)) {
		problems = append(problems, b.conflicts[name][key]...)
	}
	return problems
}

// Services are those that an Ingress names.
func (b *Builder) Services(key Key) []Key {
	if c := b.ingresses[key]; c != nil {
		return c.services
	}
	return nil
}

// Table is what has been set up to now. touched are the Ingresses whose problems may be others than before.
func (b *Builder) Table() (t *Table, touched map[Key]bool) {
	touched = make(map[Key]bool)
	t = &Table{hosts: maps.Clone(b.table.hosts), fallback: b.fallback()}
	for name := range b.dirty {
		claims := b.claims(name)
		for key := range b.conflicts[name] {
			touched[key] = true
		}
		delete(b.conflicts, name)
		switch {
		case len(claims) > 0:
			t.hosts[name] = merge(name, claims, func(key Key, problem string) {
				if b.conflicts[name] == nil {
					b.conflicts[name] = make(map[Key][]string)
				}
				b.conflicts[name][key] = append(b.conflicts[name][key], problem)
			})
			for _, c := range claims {
				touched[c.key] = true
			}
		case b.sendsAway(www(name)):
			t.hosts[name] = &host{redirect: www(name)}
		default:
			delete(t.hosts, name)
		}
	}
	clear(b.dirty)
	b.dropPools()
	b.table = t
	return t, touched
}

// claims are what Ingresses say about a host, the oldest first.
func (b *Builder) claims(name string) []claim {
	claims := make([]claim, 0, len(b.byHost[name]))
	for _, c := range b.byHost[name] {
		claims = append(claims, claim{c, c.hosts[name]})
	}
	slices.SortFunc(claims, func(a, b claim) int { return older(a.compiled, b.compiled) })
	return claims
}

func older(a, b *compiled) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
}

// sendsAway reports whether the other name of a host is sent to it.
func (b *Builder) sendsAway(name string) bool {
	for _, c := range b.byHost[name] {
		if c.hosts[name].www {
			return true
		}
	}
	return false
}

// fallback is the default backend of the oldest Ingress that has nothing else.
func (b *Builder) fallback() *Location {
	var oldest *compiled
	for _, c := range b.ingresses {
		if c.everyHost && (oldest == nil || older(c, oldest) < 0) {
			oldest = c
		}
	}
	if oldest == nil {
		return nil
	}
	return oldest.fallback
}

// dropPools forgets pools that no Ingress has any more, when they have become many.
func (b *Builder) dropPools() {
	if len(b.pools) < 2*len(b.users)+64 {
		return
	}
	used := make(map[*Pool]bool)
	for _, c := range b.ingresses {
		c.eachPool(func(p *Pool) { used[p] = true })
	}
	maps.DeleteFunc(b.pools, func(_ Backend, p *Pool) bool { return !used[p] })
}
