package encryption

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rules are the providers of resources, wildcards included.
type rules map[schema.GroupResource]transformer

// everything is the name of all resources.
var everything = schema.GroupResource{Group: "*", Resource: "*"}

// of is what encrypts a resource: the most special rule for it, or nothing.
func (r rules) of(resource schema.GroupResource) transformer {
	for _, name := range []schema.GroupResource{resource, allOf(resource.Group), everything} {
		if t := r[name]; t != nil {
			return t
		}
	}
	return identity{}
}

func allOf(group string) schema.GroupResource {
	return schema.GroupResource{Group: group, Resource: "*"}
}

// rules makes the providers of a file work. The plugins among them are added to
// v, also when it fails.
func (e *Encryption) rules(file *File, v *version) (rules, error) {
	lists := make(map[schema.GroupResource][]prefixed)
	for _, rule := range file.Resources {
		providers, err := e.providers(rule.Providers, v)
		if err != nil {
			return nil, err
		}
		for _, name := range rule.Resources {
			resource := schema.ParseGroupResource(name)
			for _, wider := range []schema.GroupResource{allOf(resource.Group), everything} {
				if _, masked := lists[wider]; masked {
					return nil, fmt.Errorf("resource %q is masked by earlier rule %q", written(resource), written(wider))
				}
			}
			lists[resource] = append(lists[resource], providers...)
		}
	}
	made := make(rules, len(lists))
	for resource, list := range lists {
		made[resource] = &chain{list: list, none: errors.New("no matching prefix found"), metrics: e.metrics}
	}
	return made, nil
}

// written is a resource as files name it.
func written(r schema.GroupResource) string {
	if r == allOf("") {
		return "*."
	}
	return r.String()
}

func (e *Encryption) providers(list []Provider, v *version) (made []prefixed, err error) {
	for _, p := range list {
		var next prefixed
		switch {
		case p.AESGCM != nil:
			next, err = e.keyed(p.AESGCM, "k8s:enc:aesgcm:v1:", "AES", newGCM)
		case p.AESCBC != nil:
			next, err = e.keyed(p.AESCBC, "k8s:enc:aescbc:v1:", "AES", newCBC)
		case p.Secretbox != nil:
			next, err = e.keyed(p.Secretbox, "k8s:enc:secretbox:v1:", "Secretbox", newSecretbox)
		case p.KMS != nil && p.KMS.APIVersion == "v1":
			err = errors.New("KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.")
		case p.KMS != nil:
			next, err = e.kms(p.KMS, v)
		case p.Identity != nil:
			next = prefixed{with: identity{}}
		}
		if err != nil {
			return nil, err
		}
		made = append(made, next)
	}
	return made, nil
}

// keyed is a provider whose keys are in the file.
func (e *Encryption) keyed(keys *Keys, prefix, name string, make func(key []byte) (transformer, error)) (prefixed, error) {
	c := &chain{none: fmt.Errorf("no matching key was found for the provided %s transformer", name), metrics: e.metrics}
	for _, key := range keys.Keys {
		secret, err := key.bytes()
		if err != nil {
			return prefixed{}, err
		}
		with, err := make(secret)
		if err != nil {
			return prefixed{}, fmt.Errorf("key %s: %w", key.Name, err)
		}
		c.list = append(c.list, prefixed{key.Name + ":", with})
	}
	return prefixed{prefix, c}, nil
}

// kms is a provider whose key a plugin has.
func (e *Encryption) kms(k *KMS, v *version) (prefixed, error) {
	p, err := e.newPlugin(k)
	if err != nil {
		return prefixed{}, fmt.Errorf("could not configure KMSv2-Plugin's probe %q, error: %w", k.Name, err)
	}
	v.plugins = append(v.plugins, p)
	return prefixed{"k8s:enc:kms:v2:" + k.Name + ":", p}, nil
}
