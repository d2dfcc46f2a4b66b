package connect

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// rewriter makes the links of an answer lead through the proxy: those that are
// absolute on the server that was asked.
type rewriter struct {
	prefix string  // path of the proxy, before the path of the server
	source url.URL // what was asked of the server
	host   string  // the host the client asked
}

// linkAttributes are the attributes of HTML elements that are URLs (HTML 4.01,
// index of attributes, and HTML 5).
var linkAttributes = map[string][]string{
	"a": {"href"}, "applet": {"codebase"}, "area": {"href"}, "audio": {"src"}, "base": {"href"}, "blockquote": {"cite"},
	"body": {"background"}, "button": {"formaction"}, "command": {"icon"}, "del": {"cite"}, "embed": {"src"},
	"form": {"action"}, "frame": {"longdesc", "src"}, "head": {"profile"}, "html": {"manifest"}, "iframe": {"longdesc", "src"},
	"img": {"longdesc", "src", "usemap"}, "input": {"src", "usemap", "formaction"}, "ins": {"cite"}, "link": {"href"},
	"object": {"classid", "codebase", "data", "usemap"}, "q": {"cite"}, "script": {"src"}, "source": {"src"}, "video": {"poster", "src"},
}

// rewrite changes the Location of a redirect, or the body of a page.
func (l *rewriter) rewrite(resp *http.Response) error {
	if to := resp.Header.Get("Location"); to != "" {
		u, err := url.Parse(to)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("error trying to parse Location header: %w", err))
		}
		resp.Header.Set("Location", l.link(u))
		return nil
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(kind) != "text/html" || resp.Request.Method == http.MethodHead {
		return nil
	}
	return l.page(resp)
}

// link is where u is to lead. Links to other hosts and relative ones stay.
func (l *rewriter) link(u *url.URL) string {
	elsewhere := u.Host != "" && u.Host != l.source.Host && u.Host != l.host
	if elsewhere || !strings.HasPrefix(u.Path, "/") {
		return u.String()
	}
	if u.Host != l.host {
		u.Scheme, u.Host = "", ""
	}
	if strings.HasPrefix(u.Path, l.prefix) {
		return u.String()
	}
	slash := strings.HasSuffix(u.Path, "/")
	u.Path = path.Join(l.prefix, u.Path)
	if slash {
		u.Path += "/"
	}
	u.RawPath = ""
	return u.String()
}

// page rewrites the body as it is read; encodings it does not know pass as they are.
func (l *rewriter) page(resp *http.Response) error {
	changed := &page{links: l, Closer: resp.Body}
	switch resp.Header.Get("Content-Encoding") {
	case "":
		changed.begin(resp.Body, &changed.done)
	case "gzip":
		in, err := gzip.NewReader(resp.Body)
		if err != nil {
			return fmt.Errorf("read compressed page: %w", err)
		}
		changed.packer = gzip.NewWriter(&changed.done)
		changed.begin(in, changed.packer)
	default:
		return nil
	}
	resp.Body = changed
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	return nil
}

// page is a body with changed links. It holds a token of it at a time.
type page struct {
	io.Closer
	links  *rewriter
	in     io.Reader
	tokens *html.Tokenizer
	out    io.Writer    // done, or packer
	packer *gzip.Writer // of a page that is compressed
	done   bytes.Buffer // what can be read
	err    error        // how the page ended
	plain  bool         // the rest is copied as it is
}

// maxToken is how much of a page is looked at at once: a tag with its attributes, or a text. After one that is
// longer, the rest of the page is left as it is.
const maxToken = 1 << 20

func (p *page) begin(in io.Reader, out io.Writer) {
	p.in, p.out, p.tokens = in, out, html.NewTokenizer(in)
	p.tokens.SetMaxBuf(maxToken)
}

// Read gives what is there when the next tag does not seem to be, so that a page that comes slowly is seen
// to come.
func (p *page) Read(b []byte) (int, error) {
	for p.err == nil && (p.done.Len() == 0 || p.done.Len() < len(b) && !p.plain && bytes.IndexByte(p.tokens.Buffered(), '>') >= 0) {
		if p.err = p.next(b); p.err == io.EOF && p.packer != nil {
			p.err = cmp.Or(p.packer.Close(), io.EOF)
		}
	}
	if p.done.Len() > 0 {
		return p.done.Read(b)
	}
	return 0, p.err
}

// next adds a token to what can be read. It may use buffer.
func (p *page) next(buffer []byte) error {
	if p.plain {
		n, err := p.in.Read(buffer)
		return cmp.Or(p.write(buffer[:n]), err)
	}
	switch p.tokens.Next() {
	case html.ErrorToken:
		err := p.write(p.tokens.Raw())
		if p.plain = errors.Is(p.tokens.Err(), html.ErrBufferExceeded); p.plain {
			return cmp.Or(err, p.write(p.tokens.Buffered()))
		}
		return cmp.Or(err, p.tokens.Err())
	case html.StartTagToken, html.SelfClosingTagToken:
		token := p.tokens.Token()
		p.links.attributes(&token)
		return p.write([]byte(token.String()))
	}
	return p.write(p.tokens.Raw())
}

func (p *page) write(b []byte) error {
	_, err := p.out.Write(b)
	return err
}

func (l *rewriter) attributes(token *html.Token) {
	for _, name := range linkAttributes[token.Data] {
		for i, a := range token.Attr {
			if a.Key != name {
				continue
			}
			if u, err := url.Parse(a.Val); err == nil {
				token.Attr[i].Val = l.link(u)
			}
		}
	}
}
