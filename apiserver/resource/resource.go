// Package resource describes API resources as data. One Definition holds
// everything the server knows about a kind; the verbs in package rest are
// written once, against Resource. Built-in kinds and custom resources are the
// same Resource value in the same map.
package resource

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Object is any API object that has metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Definition describes the kind with Go type T. Every function is optional;
// the functions run in the order of the fields. No function may keep or change
// old, which is shared.
type Definition[T any] struct {
	Group, Version, Kind string
	Plural, Singular     string // Singular defaults to the lower-case Kind
	ListKind             string // defaults to the Kind with List behind it
	ShortNames           []string
	Categories           []string
	ClusterScoped        bool
	// Prefix is below what objects are stored; empty means the plural, for
	// custom resources the group and the plural, as Kubernetes has them.
	Prefix string
	// Older are further versions, of the same fields, in which objects may be
	// stored by other servers.
	Older []string
	// Upgrade makes obj of JSON stored by other servers in a version of other
	// fields; false: it knows no such version.
	Upgrade func(version string, stored []byte, obj *T) (bool, error)
	// Verbs are the verbs served; nil means all of AllVerbs.
	Verbs []string
	// Deprecated is told as a warning to every request for the kind.
	Deprecated string

	// Default fills the fields a client left out. It runs after every decode,
	// of requests and of stored bytes alike.
	Default func(obj *T)
	// Reserve takes what is unique in the cluster (service addresses, node
	// ports) for obj and writes it into obj. old is nil on create. The store
	// call that follows decides: release is called exactly once with whether
	// the write was committed. On delete, Reserve is called with obj nil.
	Reserve func(ctx context.Context, obj, old *T, dryRun bool) (release func(committed bool), err error)
	// Prepare resets the fields a client may not set (status on the main
	// resource). old is nil on create. metadata.generation is not its business:
	// see Generation.
	Prepare func(obj, old *T)
	// Reset are the fields Prepare resets on update whatever was sent, as paths
	// with dots. Nobody owns them by this path (KEP-555). nil means status, if
	// the kind has such a subresource.
	Reset []string
	// Permit lists what of obj the user of ctx may not ask for, by what other
	// objects say, or by rights that the verb alone does not tell. old is nil on
	// create. What it lists comes before what Validate does.
	Permit func(ctx context.Context, cluster Cluster, obj, old *T) field.ErrorList
	// Validate lists what is wrong with obj. old is nil on create. Metadata is
	// validated by the caller with Name.
	Validate func(obj, old *T) field.ErrorList
	// Warn lists what is doubtful but accepted, for the Warning header.
	Warn func(obj, old *T) []string

	// Name validates metadata.name (and the prefix of generateName when prefix
	// is true) and returns messages as in apimachinery's
	// api/validation.NameIsDNSSubdomain, which nil means.
	Name func(name string, prefix bool) []string
	// Meta is how strictly metadata is judged.
	Meta MetaRules
	// Generation reports whether the change from old to obj is one of the
	// desired state, which increments metadata.generation. nil: the kind keeps
	// no generation. It starts at 1.
	Generation func(obj, old *T) bool
	// Fields are the values a field selector can name besides metadata.name and
	// metadata.namespace, which every kind has.
	Fields map[string]func(obj *T) string
	// IndexBy is the one field of Fields by which watches are kept apart
	// (spec.nodeName for pods); empty means none.
	IndexBy string
	// Columns are what "kubectl get" prints, Name and Age included. nil means
	// Name and Created At, as the real server's default table.
	Columns []Column[*T]

	// Subresources in the order of discovery (sorted by name there).
	Subresources []Subresource[T]

	// Packed keeps objects in memory compressed: for kinds whose objects are large
	// and seldom read, and for those without a Go type, which are stored as JSON.
	Packed bool

	// CreateOnUpdate lets PUT (and apply) create a missing object.
	CreateOnUpdate bool
	// NeedsVersion makes a PUT without resourceVersion an error (most kinds
	// allow such an unconditional update).
	NeedsVersion bool
	// TTL is the lifetime in seconds of a stored object (Events); 0: unlimited.
	TTL func(obj *T) uint64

	// Grace gives the grace period in seconds of a deletion with options; nil:
	// the kind is deleted at once. A result of 0 deletes at once.
	Grace func(obj *T, options *metav1.DeleteOptions) int64
	// Terminate changes obj when its deletion begins but must wait for
	// finalizers or a grace period (namespace phase).
	Terminate func(obj *T)
	// Held reports finalizers outside metadata that keep obj alive
	// (namespace spec.finalizers).
	Held func(obj *T) bool
	// Finalizer, if any, is put on every object whose deletion begins, which it
	// holds until what belongs to the object is gone. What the options of the
	// deletion say of dependents does not count then (CustomResourceDefinition).
	Finalizer string
	// AnswersDeleted makes DELETE answer with the deleted object (pods, services,
	// …) where other kinds answer with a Status.
	AnswersDeleted bool
	// Read fills what older servers did not store, of an object that is read from
	// the storage; it is stored when the object is written again.
	Read func(obj *T)
	// OrphanByDefault makes deletion without a propagation policy orphan the
	// dependents (batch/v1 Job, v1 ReplicationController).
	OrphanByDefault bool
	// OrphanWarning, if any, tells clients whose deletion orphans by default.
	OrphanWarning string

	// Review makes the kind a question instead of a record: create runs
	// decoding, defaults, Validate and admission, then answers with what Review
	// returns, and nothing is stored (TokenReview, SubjectAccessReview, …).
	// Verbs must then be create alone.
	Review func(ctx context.Context, c Call, obj *T) (*T, error)

	// Live makes the kind one whose objects are found out anew for every reader, and nothing is stored
	// (ComponentStatus, PodMetrics). The result has all objects of the namespace, if one is given, and only the one of a
	// name has to be in it if that is given. An error is the answer. Verbs must then be get and list.
	Live func(ctx context.Context, namespace, name string) ([]*T, error)

	// Yields makes the kind one that another program may be installed to serve in its place: the group version has no
	// APIService, so that the program's can be made. It is the same for all kinds of a group version.
	Yields bool
}

// MetaRules say how strictly the metadata of a kind is judged. A few kinds were
// let off when they were made, and clients may count on it.
type MetaRules int

const (
	// MetaStrict: Name applies, and finalizers have a domain or are Kubernetes' own.
	MetaStrict MetaRules = iota
	// MetaAnyFinalizer: Name applies, finalizers are what clients like.
	MetaAnyFinalizer
	// MetaLax: a name is whatever can stand in a path, and finalizers are what
	// clients like.
	MetaLax
)

// AllVerbs are the verbs of a stored resource, in the order of discovery.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Column is one column of the table a client may ask for. Value gets an object
// and returns a string, an integer or a bool; ages are strings made by Age.
type Column[O any] struct {
	Name, Type, Format, Description string
	Priority                        int32
	// Value is the cell of an object. It depends on the object alone: how long ago something was is a Since.
	Value func(obj O) any
}

// Subresource is a row of its own below a kind. Exactly one of the groups of
// fields is set: a view (Prepare, Validate), Scale, Create, or Connect.
type Subresource[T any] struct {
	Name string
	// Kind is the body's kind when it is not the parent's (Scale, Eviction, …).
	Kind schema.GroupVersionKind
	// Verbs as in discovery; nil means get, patch, update for views and scale,
	// create for Create.
	Verbs []string

	// View: the parent object, of which only a part may change by this path.
	// Prepare must put back everything of old that is not that part.
	View    bool
	Prepare func(obj, old *T)
	// Reset as in Definition; nil means spec on status, and nothing elsewhere.
	Reset    []string
	Permit   func(ctx context.Context, cluster Cluster, obj, old *T) field.ErrorList
	Validate func(obj, old *T) field.ErrorList
	Warn     func(obj, old *T) []string

	// Scale: autoscaling/v1 Scale read from and written to the parent.
	Scale *Scale[*T]

	// Create: POST of a body that acts on the parent (binding, eviction, token).
	Create func(ctx context.Context, c Call, body runtime.Object) (runtime.Object, error)
	// NewBody makes an empty body of Kind for Create.
	NewBody func() runtime.Object
	// Convert are the other versions in which the body of Create may come, each with what makes one of Kind of it.
	Convert map[schema.GroupVersion]func(body runtime.Object) runtime.Object

	// Connect: streaming or proxying, served by package connect under
	// "<plural>/<name>". Options is the kind of its query options
	// (PodExecOptions, …) as discovery names it.
	Connect bool
}

// Scale says how a kind is scaled.
type Scale[O any] struct {
	Replicas    func(obj O) *int32 // nil where there is none, which kinds with a default never have
	Status      func(obj O) int32
	Selector    func(obj O) string // in string form, "" when none
	SetReplicas func(obj O, replicas int32)
	// Path is where the replicas are, by the names of the fields; nil means
	// spec, replicas.
	Path []string
}

// Call is what a Create subresource knows about its request.
type Call struct {
	Cluster         Cluster
	Resource        *Resource
	Namespace, Name string
	DryRun          bool
	Options         *metav1.CreateOptions
}

// Cluster is what subresources and admission plugins may ask of the server.
// Objects returned by Get and List are shared and must not be changed; Update
// hands change a copy. Errors are API status errors (apimachinery api/errors).
type Cluster interface {
	Resource(group, plural string) *Resource // the storage version; nil if not served
	Get(ctx context.Context, r *Resource, namespace, name string) (Object, error)
	List(ctx context.Context, r *Resource, namespace string) ([]Object, error)
	// Create stores obj as is (defaults, validation and system metadata apply,
	// admission does not).
	Create(ctx context.Context, r *Resource, obj Object) (Object, error)
	// Update retries change on conflict until it is stored; an error of change
	// is returned as it is.
	Update(ctx context.Context, r *Resource, namespace, name string, dryRun bool, change func(obj Object) error) (Object, error)
	// Delete follows the same rules as the delete verb.
	Delete(ctx context.Context, r *Resource, namespace, name string, options *metav1.DeleteOptions) (Object, error)
}

// Resource is a Definition with its Go type erased. Every function is set.
type Resource struct {
	Group, Version, Kind, ListKind, Plural, Singular string
	ShortNames, Categories                           []string
	ClusterScoped                                    bool
	Prefix                                           string
	Older                                            []string
	Upgrade                                          func(version string, stored []byte, obj Object) (bool, error)
	Verbs                                            []string
	Deprecated                                       string

	New      func() Object
	Weak     func(obj Object) func() Object // holds obj no longer than others do: then it is nil
	NewList  func() runtime.Object          // nil if Custom is set: unstructured lists
	Default  func(obj Object)
	Read     func(obj Object) // nil: nothing is filled
	Reserve  func(ctx context.Context, obj, old Object, dryRun bool) (release func(committed bool), err error)
	Prepare  func(obj, old Object)
	Reset    []string
	Permit   func(ctx context.Context, cluster Cluster, obj, old Object) field.ErrorList
	Validate func(ctx context.Context, obj, old Object) field.ErrorList
	Warn     func(obj, old Object) []string

	Name           func(name string, prefix bool) []string
	Meta           MetaRules
	Generation     func(obj, old Object) bool
	HasGeneration  bool
	Fields         map[string]func(obj Object) string
	IndexBy        string
	Columns        []Column[Object]
	Subresources   []Sub
	Packed         bool
	CreateOnUpdate bool
	NeedsVersion   bool
	TTL            func(obj Object) uint64

	Grace           func(obj Object, options *metav1.DeleteOptions) int64
	Protobuf        bool // whether objects have a protobuf form
	Graceful        bool // whether the kind has a Grace
	Terminate       func(obj Object)
	Held            func(obj Object) bool
	Finalizer       string
	AnswersDeleted  bool
	OrphanByDefault bool
	OrphanWarning   string

	// Custom is set for kinds without a Go type: what the type says of others.
	Custom *Custom

	// Review is nil for kinds that are no questions.
	Review func(ctx context.Context, c Call, obj Object) (Object, error)
	// Live is nil for kinds whose objects are stored.
	Live func(ctx context.Context, namespace, name string) ([]Object, error)
	// Yields as in Definition.
	Yields bool

	// Stored is the resource under which objects of this one are kept; itself
	// unless the kind is served in several versions. ToStored and FromStored
	// convert copies; they are the identity when Stored is the resource itself.
	Stored     *Resource
	ToStored   func(obj Object) (Object, error)
	FromStored func(obj Object) (Object, error)
	// StoredOnly is a resource that no request finds, and whose objects are known to
	// the server all the same: those of a definition that is deleted and served in no
	// version.
	StoredOnly bool
}

// Custom is what a kind without a Go type knows of its fields. The functions
// may be called concurrently, and make what they return when they are first
// called: most kinds of a cluster are hardly used.
type Custom struct {
	// Prune brings obj, as a client sent it or as it was stored, into the form
	// of the kind: it drops what the schema does not know, and returns what
	// that was, as strict decoding names it. The error is about metadata that
	// is none; what was stored with such is repaired instead.
	Prune func(obj Object, stored bool) (dropped []string, err error)
	// Types are the types of the fields, by which applied configurations are
	// merged.
	Types func() (managedfields.TypeConverter, error)
	// Schema is the OpenAPI 3 schema; nil means that objects may hold anything.
	// The result is shared. apiVersion, kind and metadata need not be in it.
	Schema func() *spec.Schema
	// FromStored is Resource.FromStored for many objects at once, where that
	// is dearer one by one; else nil.
	FromStored func(objects []Object) ([]Object, error)
	// Version is the row of a version of the definition, served or not; nil: there is none. Who owns a field may know the object
	// in a version that is served no more.
	Version func(name string) *Resource
	// Revision names what the row was made of: rows of the same name and the
	// same Revision are alike, also those of other servers. It may be empty.
	Revision string
}

// Sub is a Subresource with its Go type erased.
type Sub struct {
	Name     string
	Kind     schema.GroupVersionKind
	Verbs    []string
	View     bool
	Prepare  func(obj, old Object)
	Reset    []string
	Permit   func(ctx context.Context, cluster Cluster, obj, old Object) field.ErrorList
	Validate func(ctx context.Context, obj, old Object) field.ErrorList
	Warn     func(obj, old Object) []string
	Scale    *Scale[Object]
	Create   func(ctx context.Context, c Call, body runtime.Object) (runtime.Object, error)
	NewBody  func() runtime.Object
	Convert  map[schema.GroupVersion]func(body runtime.Object) runtime.Object
	Connect  bool
}

// GroupVersion is the group and version of r.
func (r *Resource) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: r.Group, Version: r.Version}
}

// GVK is the group, version and kind of r.
func (r *Resource) GVK() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.Kind) }

// GVR is the group, version and resource of r.
func (r *Resource) GVR() schema.GroupVersionResource { return r.GroupVersion().WithResource(r.Plural) }

// GR is the group and resource of r, as errors name it.
func (r *Resource) GR() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// Namespaced reports whether objects of r live in namespaces.
func (r *Resource) Namespaced() bool { return !r.ClusterScoped }

// IsNamespace reports whether objects of r are the namespaces themselves. Who
// asks for one of them is authorized in the namespace it is.
func (r *Resource) IsNamespace() bool { return r.Group == "" && r.Plural == "namespaces" }

// Converts reports whether versions of r differ in more than what they are
// called, so that an object is always of the version it says.
func (r *Resource) Converts() bool { return r.Custom != nil && r.Custom.FromStored != nil }

// Pruner is Custom.Prune, nil for kinds with a Go type.
func (r *Resource) Pruner() func(obj Object, stored bool) (dropped []string, err error) {
	if r.Custom == nil {
		return nil
	}
	return r.Custom.Prune
}

// Sub returns the subresource of a name, or nil.
func (r *Resource) Sub(name string) *Sub {
	i := slices.IndexFunc(r.Subresources, func(s Sub) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Subresources[i]
}

// Registry is what the keys of all objects begin with.
const Registry = "/registry/"

// Key is where an object of this kind is stored, which is where Kubernetes
// stores it. An empty name gives the prefix of a namespace, an empty namespace
// the prefix of all. It does not depend on the version. Names are taken as they
// are: ".." leads nowhere.
func (r *Resource) Key(namespace, name string) string {
	key := Registry + r.Stored.prefix() + "/"
	if namespace != "" {
		key += namespace + "/"
	}
	return key + name
}

func (r *Resource) prefix() string {
	switch {
	case r.Prefix != "":
		return r.Prefix
	case r.Custom != nil:
		return r.Group + "/" + r.Plural
	}
	return r.Plural
}

func (r *Resource) setNames() {
	if r.Singular == "" {
		r.Singular = strings.ToLower(r.Kind)
	}
	if r.ListKind == "" {
		r.ListKind = r.Kind + "List"
	}
	if r.Verbs == nil {
		r.Verbs = AllVerbs
	}
}
