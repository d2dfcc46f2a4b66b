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
	fallbacks map[Key]*compiled             // those whose default backend is for hosts of nobody
	pools     map[Key]map[Backend]*usedPool // by Service
	unused    map[Backend]bool              // pools that may have no users any more
	readers   map[Key]map[Key]bool          // by Secret, which Ingresses depend on it
	conflicts map[string]map[Key][]string
}

// usedPool is a pool and how many locations have it.
type usedPool struct {
	*Pool
	users int
}

// NewBuilder returns a Builder without Ingresses. secret returns nil for a Secret that is not there.
func NewBuilder(secret func(Key) *corev1.Secret) *Builder {
	return &Builder{
		secret: secret, ingresses: make(map[Key]*compiled), byHost: make(map[string]map[Key]*compiled),
		dirty: make(map[string]bool), table: &Table{}, fallbacks: make(map[Key]*compiled), pools: make(map[Key]map[Backend]*usedPool),
		unused: make(map[Backend]bool), readers: make(map[Key]map[Key]bool), conflicts: make(map[string]map[Key][]string),
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
	if c.everyHost {
		b.fallbacks[c.key] = c
	}
	c.eachPool(func(p *Pool) { b.pools[p.Service][p.Backend].users++ })
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
	delete(b.fallbacks, key)
	c.eachPool(func(p *Pool) {
		b.pools[p.Service][p.Backend].users--
		b.unused[p.Backend] = true
	})
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
	for _, p := range b.pools[service] {
		pools = append(pools, p.Pool)
	}
	return pools
}

// UsersOf are the Ingresses that have a backend.
func (b *Builder) UsersOf(backend Backend) (users []Key) {
	for key, c := range b.ingresses {
		uses := false
		c.eachPool(func(p *Pool) { uses = uses || p.Backend == backend })
		if uses {
			users = append(users, key)
		}
	}
	return users
}

// eachPool calls visit for the pool of every location.
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

// pool is the one of a backend, so that all its locations see the same endpoints. Who gets it and does not use it has it
// dropped with the next Table.
func (b *Builder) pool(backend Backend) *Pool {
	if b.pools[backend.Service] == nil {
		b.pools[backend.Service] = make(map[Backend]*usedPool)
	}
	p := b.pools[backend.Service][backend]
	if p == nil {
		p = &usedPool{Pool: &Pool{Backend: backend}}
		b.pools[backend.Service][backend] = p
		b.unused[backend] = true
	}
	return p.Pool
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
	changed := make(map[string]*host, len(b.dirty))
	for name := range b.dirty {
		changed[name] = b.host(name, touched)
	}
	clear(b.dirty)
	b.dropPools()
	b.table = &Table{hosts: b.table.hosts.with(changed), fallback: b.fallback()}
	return b.table, touched
}

// host makes what is served for a name; nil: nothing is. It notes the Ingresses that have, or had, a share in it.
func (b *Builder) host(name string, touched map[Key]bool) *host {
	for key := range b.conflicts[name] {
		touched[key] = true
	}
	delete(b.conflicts, name)
	claims := b.claims(name)
	if len(claims) == 0 {
		if b.sendsAway(www(name)) {
			return &host{redirect: www(name)}
		}
		return nil
	}
	for _, c := range claims {
		touched[c.key] = true
	}
	return merge(name, claims, func(key Key, problem string) {
		if b.conflicts[name] == nil {
			b.conflicts[name] = make(map[Key][]string)
		}
		b.conflicts[name][key] = append(b.conflicts[name][key], problem)
	})
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
	for _, c := range b.fallbacks {
		if oldest == nil || older(c, oldest) < 0 {
			oldest = c
		}
	}
	if oldest == nil {
		return nil
	}
	return oldest.fallback
}

// dropPools forgets pools that no location has any more.
func (b *Builder) dropPools() {
	for backend := range b.unused {
		of := b.pools[backend.Service]
		if p := of[backend]; p == nil || p.users > 0 {
			continue
		}
		if delete(of, backend); len(of) == 0 {
			delete(b.pools, backend.Service)
		}
	}
	clear(b.unused)
}
