/* Clean events become Arrow columns without a Python object between: the hot path of validation.
 *
 * Called by fast_path.py through ctypes, which also says what a shape looks like (struct node). A body is taken only if
 * every event of it certainly passes the shape: one doubt (a type, a bound, a repeated field, an unknown one below the
 * top, a number whose value needs thought) refuses the body as a whole and leaves no trace of it; the general path
 * judges it then. So there are no errors to tell here, and no rule is laxer than the arbiter's.
 *
 * The caller vouches that bodies are UTF-8, that a NUL follows the last byte, and that all of them together are
 * smaller than 2 GiB. The columns leave by the Arrow C data interface:
 * https://arrow.apache.org/docs/format/CDataInterface.html
 */

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, INSTANT, DAY, INTEGER, NUMBER, BOOLEAN, JSON, LIST, STRUCT, EXTRAS };

/* A value of the shape; the root comes first, the members of a struct follow one another. If the last of them is
 * EXTRAS, members of other names become its value: JSON text of an object. Mirrored by fast_path._Node. */
struct node {
    const char *key; /* as a member: its name in UTF-8 */
    int64_t key_length;
    const char *const *texts; /* TEXT: what is allowed, if `allowed` */
    const int64_t *text_lengths;
    const int64_t *wholes; /* INTEGER: the same */
    int64_t allowed;       /* how many of them; negative: anything within the bounds */
    int64_t least, most; /* INTEGER: bounds; TEXT: characters; LIST: items; JSON, EXTRAS: at most so many brackets,
                          * EXTRAS nothing at all if negative */
    double at_least, above, at_most, below; /* NUMBER */
    int64_t first_child, children;          /* LIST has one */
    uint8_t kind, nullable, required, spare[5];
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* ---- columns that grow ---- */

struct buffer {
    uint8_t *at;
    size_t size, capacity;
};

struct column {
    const struct node *node;
    struct column *children;
    int64_t length, nulls;
    struct buffer valid; /* a byte a value, from the first null on */
    struct buffer offsets; /* TEXT, JSON, EXTRAS, LIST: int32, one more than values */
    struct buffer data;
};

static bool reserve(struct buffer *buffer, size_t more)
{
    if (buffer->size + more <= buffer->capacity)
        return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 64;
    while (capacity < buffer->size + more)
        capacity *= 2;
    uint8_t *at = realloc(buffer->at, capacity);
    if (at == NULL)
        return false;
    buffer->at = at;
    buffer->capacity = capacity;
    return true;
}

static inline bool append(struct buffer *buffer, const void *bytes, size_t size)
{
    if (!reserve(buffer, size))
        return false;
    memcpy(buffer->at + buffer->size, bytes, size);
    buffer->size += size;
    return true;
}

static inline size_t width(const struct column *column)
{
    switch (column->node->kind) {
    case INSTANT: case INTEGER: case NUMBER:
        return 8;
    case DAY:
        return 4;
    case BOOLEAN:
        return 1; /* a bit when it leaves */
    default:
        return 0;
    }
}

static inline bool is_text(const struct column *column)
{
    return column->node->kind == TEXT || column->node->kind == JSON || column->node->kind == EXTRAS;
}

static inline bool has_offsets(const struct column *column)
{
    return is_text(column) || column->node->kind == LIST;
}

static inline int32_t offset(const struct column *column, int64_t at)
{
    int32_t found;
    memcpy(&found, column->offsets.at + 4 * at, 4);
    return found;
}

/* The value whose parts are appended already is complete. */
static bool finish(struct column *column, bool valid)
{
    if (has_offsets(column)) {
        int32_t end = (int32_t)(column->node->kind == LIST ? column->children->length : (int64_t)column->data.size);
        if (!append(&column->offsets, &end, 4))
            return false;
    }
    if (!valid && column->valid.at == NULL) {
        if (!reserve(&column->valid, (size_t)column->length + 1))
            return false;
        memset(column->valid.at, 1, (size_t)column->length);
        column->valid.size = (size_t)column->length;
    }
    if (column->valid.at != NULL && !append(&column->valid, &valid, 1))
        return false;
    column->nulls += !valid;
    column->length++;
    return true;
}

static bool finish_null(struct column *column)
{
    static const uint8_t nothing[8];
    if (!append(&column->data, nothing, width(column)))
        return false;
    if (column->node->kind == STRUCT)
        for (int64_t at = 0; at < column->node->children; at++)
            if (!finish_null(&column->children[at]))
                return false;
    return finish(column, false);
}

/* Forget all values but the first `length`, and what is half done. */
static void cut(struct column *column, int64_t length)
{
    if (column->valid.at != NULL) {
        for (size_t at = (size_t)length; at < column->valid.size; at++)
            column->nulls -= !column->valid.at[at];
        if (column->valid.size > (size_t)length)
            column->valid.size = (size_t)length;
    }
    if (has_offsets(column))
        column->offsets.size = 4 * (size_t)(length + 1);
    column->data.size = width(column) * (size_t)length;
    if (is_text(column))
        column->data.size = (size_t)offset(column, length);
    if (column->node->kind == LIST)
        cut(column->children, offset(column, length));
    if (column->node->kind == STRUCT)
        for (int64_t at = 0; at < column->node->children; at++)
            cut(&column->children[at], length);
    column->length = length;
}

static void discard(struct column *column)
{
    for (int64_t at = 0; column->children != NULL && at < column->node->children; at++)
        discard(&column->children[at]);
    free(column->children);
    free(column->valid.at);
    free(column->offsets.at);
    free(column->data.at);
    memset(column, 0, sizeof *column);
}

static bool begin(struct column *column, const struct node *nodes, const struct node *node)
{
    static const int32_t zero;
    memset(column, 0, sizeof *column);
    column->node = node;
    if (!reserve(&column->data, 1) || (has_offsets(column) && !append(&column->offsets, &zero, 4)))
        return false;
    if (node->children == 0)
        return true;
    column->children = calloc((size_t)node->children, sizeof *column->children);
    if (column->children == NULL)
        return false;
    for (int64_t at = 0; at < node->children; at++)
        column->children[at].node = &nodes[node->first_child + at];
    for (int64_t at = 0; at < node->children; at++)
        if (!begin(&column->children[at], nodes, &nodes[node->first_child + at]))
            return false;
    return true;
}

/* ---- reading: each `take_` moves the cursor past what it takes, or is false ---- */

struct cursor {
    const char *at, *end; /* *end is NUL, which nothing takes: most looks ahead need no comparison with it */
    bool lines;           /* a newline ends the event */
    int64_t event_items, body_items; /* how many items of arrays there may yet be: in this event, in this body */
};

static inline void skip_blanks(struct cursor *in)
{
    while (*in->at == ' ' || *in->at == '\t' || *in->at == '\r' || (*in->at == '\n' && !in->lines))
        in->at++;
}

static inline bool take(struct cursor *in, char expected)
{
    if (*in->at != expected)
        return false;
    in->at++;
    return true;
}

/* What comes between an opening bracket, taken already, and the closing one: items by `take_item`, commas between. */
static inline bool take_items(struct cursor *in, char close, bool (*take_item)(struct cursor *, void *), void *to)
{
    skip_blanks(in);
    if (take(in, close))
        return true;
    do {
        skip_blanks(in);
        if (!take_item(in, to))
            return false;
        skip_blanks(in);
    } while (take(in, ','));
    return take(in, close);
}

static inline bool take_colon(struct cursor *in)
{
    skip_blanks(in);
    if (!take(in, ':'))
        return false;
    skip_blanks(in);
    return true;
}

static bool take_word(struct cursor *in, const char *word, size_t length)
{
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, word, length) != 0)
        return false;
    in->at += length;
    return true;
}

/* The next byte that is a quote, a backslash or a control character, eight at a time. */
static inline const char *special(const char *at, const char *end)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t quote = word ^ (ones * '"'), backslash = word ^ (ones * '\\');
        uint64_t found = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((word - ones * 0x20) & ~word);
        if ((found &= highs) == 0)
            continue;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return at + (__builtin_ctzll(found) >> 3); /* bytes after a true one may be marked falsely, never one before */
#else
        break;
#endif
    }
    while (at < end && *at != '"' && *at != '\\' && (uint8_t)*at >= 0x20)
        at++;
    return at;
}

static bool take_hex(struct cursor *in, uint32_t *code)
{
    *code = 0;
    for (int digit = 0; digit < 4; digit++, in->at++) {
        char c = *in->at;
        int value = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (value < 0)
            return false;
        *code = *code << 4 | (uint32_t)value;
    }
    return true;
}

static int utf8(uint32_t code, char *out)
{
    if (code < 0x80)
        return out[0] = (char)code, 1;
    if (code < 0x800)
        return out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12), out[1] = (char)(0x80 | (code >> 6 & 63));
        return out[2] = (char)(0x80 | (code & 63)), 3;
    }
    out[0] = (char)(0xf0 | code >> 18), out[1] = (char)(0x80 | (code >> 12 & 63));
    return out[2] = (char)(0x80 | (code >> 6 & 63)), out[3] = (char)(0x80 | (code & 63)), 4;
}

/* After the backslash; a surrogate alone is refused. */
static int take_escape(struct cursor *in, char *out)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t code, low;
    if (!take(in, 'u')) {
        const char *found = *in->at ? strchr(letters, *in->at) : NULL;
        if (found == NULL)
            return 0;
        in->at++;
        return out[0] = values[found - letters], 1;
    }
    if (!take_hex(in, &code) || (code >= 0xdc00 && code < 0xe000))
        return 0;
    if (code >= 0xd800 && code < 0xdc00) {
        if (!take(in, '\\') || !take(in, 'u') || !take_hex(in, &low) || low < 0xdc00 || low >= 0xe000)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return utf8(code, out);
}

/* A string, its value to `out`; NULL: nowhere. */
static bool take_string(struct cursor *in, struct buffer *out)
{
    if (!take(in, '"'))
        return false;
    for (;;) {
        const char *stop = special(in->at, in->end);
        if (out != NULL && !append(out, in->at, (size_t)(stop - in->at)))
            return false;
        in->at = stop;
        if (take(in, '"'))
            return true;
        char escaped[4];
        int size = take(in, '\\') ? take_escape(in, escaped) : 0;
        if (size == 0 || (out != NULL && !append(out, escaped, (size_t)size)))
            return false;
    }
}

static bool take_integer(struct cursor *in, int64_t *value)
{
    bool negative = take(in, '-');
    const char *first = in->at;
    int64_t found = 0;
    for (; *in->at >= '0' && *in->at <= '9'; in->at++)
        if (__builtin_mul_overflow(found, 10, &found) || __builtin_sub_overflow(found, *in->at - '0', &found))
            return false; /* counted downwards: the least integer has no positive */
    if (in->at == first || (*first == '0' && in->at - first > 1) || (!negative && found == INT64_MIN))
        return false;
    *value = negative ? found : -found;
    return true;
}

static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define EXACT 9007199254740992.0 /* 2^53: an integer from here on may have been rounded when it became a double */

static bool take_digits(struct cursor *in, uint64_t *mantissa, int *digits)
{
    const char *first = in->at;
    for (; *in->at >= '0' && *in->at <= '9'; in->at++)
        if (*digits < 19) {
            *mantissa = 10 * *mantissa + (uint64_t)(*in->at - '0');
            *digits += *mantissa != 0;
        } else {
            *digits = 20; /* more than fit */
        }
    return in->at > first;
}

/* A number of the grammar; `whole`: without fraction and exponent. `value`, unless NULL: the double nearest to it. */
static bool take_number(struct cursor *in, double *value, bool *whole)
{
    const char *start = in->at;
    bool negative = take(in, '-');
    const char *first = in->at;
    uint64_t mantissa = 0;
    int digits = 0;
    int64_t exponent = 0;
    if (!take_digits(in, &mantissa, &digits) || (*first == '0' && in->at - first > 1))
        return false;
    *whole = true;
    if (take(in, '.')) {
        const char *point = in->at;
        *whole = false;
        if (!take_digits(in, &mantissa, &digits))
            return false;
        exponent = point - in->at;
    }
    if (*in->at == 'e' || *in->at == 'E') {
        in->at++;
        *whole = false;
        bool down = take(in, '-');
        if (!down)
            take(in, '+');
        const char *power = in->at;
        int64_t stated = 0;
        for (; *in->at >= '0' && *in->at <= '9'; in->at++)
            stated = stated < 10000 ? 10 * stated + (*in->at - '0') : stated;
        if (in->at == power)
            return false;
        exponent += down ? -stated : stated;
    }
    if (value == NULL)
        return true;
    if (digits < 20 && mantissa < (uint64_t)EXACT && exponent >= -22 && exponent <= 22) {
        double exact = (double)mantissa; /* both are exact, so one operation rounds once (Clinger 1990) */
        exact = exponent < 0 ? exact / POWERS[-exponent] : exact * POWERS[exponent];
        *value = negative ? -exact : exact;
    } else {
        char *end;
        *value = strtod(start, &end);
        return end == in->at; /* not so in a locale with another decimal point */
    }
    return true;
}

static inline bool take_two(const char *at, int *value)
{
    if (at[0] < '0' || at[0] > '9' || at[1] < '0' || at[1] > '9')
        return false;
    *value = 10 * (at[0] - '0') + (at[1] - '0');
    return true;
}

/* YYYY-MM-DD to days since the epoch; http://howardhinnant.github.io/date_algorithms.html#days_from_civil */
static bool day_of(const char *at, int64_t *days)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century, rest, month, day;
    if (!take_two(at, &century) || !take_two(at + 2, &rest) || at[4] != '-' || !take_two(at + 5, &month) ||
        at[7] != '-' || !take_two(at + 8, &day))
        return false;
    int year = 100 * century + rest;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > lengths[month - 1] + (leap && month == 2))
        return false;
    int64_t y = year - (month <= 2), era = y / 400, of_era = y - 400 * era;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    *days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    return true;
}

/* RFC 3339 to microseconds since the epoch, further digits cut; leap seconds and the ends of time are for others. */
static bool instant_of(const char *at, const char *end, int64_t *micros)
{
    int hour, minute, second, offset_hour = 0, offset_minute = 0;
    int64_t days, fraction = 0, sign = 0;
    if (end - at < 20 || !day_of(at, &days) || at[10] != 'T' || !take_two(at + 11, &hour) || at[13] != ':' ||
        !take_two(at + 14, &minute) || at[16] != ':' || !take_two(at + 17, &second))
        return false;
    at += 19;
    if (*at == '.') {
        const char *first = ++at;
        int64_t unit = 100000;
        for (; *at >= '0' && *at <= '9'; at++, unit /= 10)
            fraction += unit * (*at - '0');
        if (at == first)
            return false;
    }
    if (*at == 'Z') {
        at++;
    } else if (*at == '+' || *at == '-') {
        sign = *at == '+' ? 1 : -1;
        if (end - at != 6 || !take_two(at + 1, &offset_hour) || at[3] != ':' || !take_two(at + 4, &offset_minute))
            return false;
        at += 6;
    } else {
        return false;
    }
    if (at != end || hour > 23 || minute > 59 || second > 59 || offset_hour > 23 || offset_minute > 59)
        return false;
    int64_t minutes = (days * 24 + hour) * 60 + minute - sign * (offset_hour * 60 + offset_minute);
    *micros = (minutes * 60 + second) * 1000000 + fraction;
    return *micros >= -62135596800000000 && *micros <= 253402300799999999;
}

static bool take_any(struct cursor *in, int64_t brackets);

/* An item of an array comes. A `{}` of three bytes becomes a value of every column, so items are counted, not bytes. */
static inline bool count_item(struct cursor *in)
{
    return --in->event_items >= 0 && --in->body_items >= 0;
}

static bool take_any_item(struct cursor *in, void *brackets)
{
    return count_item(in) && take_any(in, *(int64_t *)brackets);
}

static bool take_any_member(struct cursor *in, void *brackets)
{
    return take_string(in, NULL) && take_colon(in) && take_any(in, *(int64_t *)brackets);
}

/* Any value, to be kept as its text. */
static bool take_any(struct cursor *in, int64_t brackets)
{
    bool whole;
    switch (*in->at) {
    case '"':
        return take_string(in, NULL);
    case 't':
        return take_word(in, "true", 4);
    case 'f':
        return take_word(in, "false", 5);
    case 'n':
        return take_word(in, "null", 4);
    case '{': case '[':
        break;
    default:
        return take_number(in, NULL, &whole);
    }
    if (brackets-- < 1)
        return false;
    return *in->at++ == '{' ? take_items(in, '}', take_any_member, &brackets)
                            : take_items(in, ']', take_any_item, &brackets);
}

/* ---- values into columns ---- */

static bool take_value(struct cursor *in, struct column *column);

static bool is_allowed_text(const struct node *node, const uint8_t *text, size_t size)
{
    for (int64_t at = 0; at < node->allowed; at++)
        if ((size_t)node->text_lengths[at] == size && memcmp(node->texts[at], text, size) == 0)
            return true;
    return node->allowed < 0;
}

static bool take_text(struct cursor *in, struct column *column)
{
    const struct node *node = column->node;
    size_t from = column->data.size;
    if (!take_string(in, &column->data))
        return false;
    const uint8_t *text = column->data.at + from;
    size_t size = column->data.size - from;
    if (node->least > 0 || node->most < INT64_MAX) {
        int64_t characters = 0;
        for (size_t at = 0; at < size; at++)
            characters += (text[at] & 0xc0) != 0x80;
        if (characters < node->least || characters > node->most)
            return false;
    }
    return is_allowed_text(node, text, size) && finish(column, true);
}

static bool take_time(struct cursor *in, struct column *column)
{
    const char *first = in->at + 1, *end;
    if (*in->at != '"' || *(end = special(first, in->end)) != '"')
        return false;
    in->at = end + 1;
    int64_t value;
    if (column->node->kind == INSTANT)
        return instant_of(first, end, &value) && append(&column->data, &value, 8) && finish(column, true);
    if (end - first != 10 || !day_of(first, &value))
        return false;
    int32_t days = (int32_t)value;
    return append(&column->data, &days, 4) && finish(column, true);
}

static bool take_whole(struct cursor *in, struct column *column)
{
    const struct node *node = column->node;
    int64_t value;
    if (!take_integer(in, &value) || value < node->least || value > node->most)
        return false;
    bool allowed = node->allowed < 0;
    for (int64_t at = 0; at < node->allowed && !allowed; at++)
        allowed = node->wholes[at] == value;
    return allowed && append(&column->data, &value, 8) && finish(column, true);
}

static bool take_double(struct cursor *in, struct column *column)
{
    const struct node *node = column->node;
    double value;
    bool whole;
    if (!take_number(in, &value, &whole) || !(fabs(value) < EXACT) || (whole && value == 0 && signbit(value)))
        return false;
    if (!(value >= node->at_least && value > node->above && value <= node->at_most && value < node->below))
        return false;
    return append(&column->data, &value, 8) && finish(column, true);
}

static bool take_boolean(struct cursor *in, struct column *column)
{
    bool value = *in->at == 't';
    if (!(value ? take_word(in, "true", 4) : take_word(in, "false", 5)))
        return false;
    return append(&column->data, &value, 1) && finish(column, true);
}

static bool take_json(struct cursor *in, struct column *column)
{
    const char *first = in->at;
    if (!take_any(in, column->node->most))
        return false;
    return append(&column->data, first, (size_t)(in->at - first)) && finish(column, true);
}

static bool take_element(struct cursor *in, void *column)
{
    return count_item(in) && take_value(in, column);
}

static bool take_list(struct cursor *in, struct column *column)
{
    int64_t before = column->children->length;
    if (!take(in, '[') || !take_items(in, ']', take_element, column->children))
        return false;
    int64_t items = column->children->length - before;
    return items >= column->node->least && items <= column->node->most && finish(column, true);
}

static inline bool take_key(struct cursor *in, const struct node *member)
{
    size_t length = (size_t)member->key_length, left = (size_t)(in->end - in->at);
    if (member->kind == EXTRAS || left < length + 2 || in->at[length + 1] != '"')
        return false;
    if (memcmp(in->at + 1, member->key, length) != 0)
        return false;
    in->at += length + 2;
    return true;
}

#define UNKNOWN_MAX 32

/* The unknown members of one event, as sent: where their names are. */
struct unknown {
    const char *name[UNKNOWN_MAX];
    size_t length[UNKNOWN_MAX];
    int count;
};

/* A member that the shape does not name, with a name that needs no escapes and came once. */
static bool take_unknown(struct cursor *in, struct column *extras, struct unknown *seen)
{
    const char *name = in->at;
    if (extras->node->most < 0 || seen->count == UNKNOWN_MAX || !take_string(in, NULL))
        return false;
    size_t length = (size_t)(in->at - name);
    for (int at = 0; at < seen->count; at++)
        if (seen->length[at] == length && memcmp(seen->name[at], name, length) == 0)
            return false;
    if (memchr(name, '\\', length) != NULL || !append(&extras->data, seen->count ? "," : "{", 1))
        return false;
    seen->name[seen->count] = name;
    seen->length[seen->count++] = length;
    if (!append(&extras->data, name, length) || !append(&extras->data, ":", 1) || !take_colon(in))
        return false;
    const char *value = in->at;
    return take_any(in, extras->node->most) && append(&extras->data, value, (size_t)(in->at - value));
}

static bool finish_unknown(struct column *extras, const struct unknown *seen)
{
    return seen->count == 0 ? finish_null(extras) : append(&extras->data, "}", 1) && finish(extras, true);
}

/* An object that is being taken. */
struct object {
    struct column *column, *extras; /* `extras` NULL: no other members */
    int64_t expected;               /* the member to try first: events name them in one order */
    struct unknown unknown;
};

/* The member whose name is next; NULL: there is none of that name, or no name. */
static struct column *take_name(struct cursor *in, struct object *object)
{
    int64_t count = object->column->node->children;
    if (*in->at != '"')
        return NULL;
    for (int64_t tried = 0; tried < count; tried++, object->expected++) {
        if (object->expected >= count)
            object->expected = 0;
        if (take_key(in, object->column->children[object->expected].node))
            return &object->column->children[object->expected++];
    }
    return NULL;
}

static bool take_member(struct cursor *in, void *to)
{
    struct object *object = to;
    struct column *member = take_name(in, object);
    if (member == NULL)
        return object->extras != NULL && take_unknown(in, object->extras, &object->unknown);
    bool repeated = member->length != object->column->length;
    return !repeated && take_colon(in) && take_value(in, member);
}

static bool take_object(struct cursor *in, struct column *column)
{
    int64_t count = column->node->children;
    struct object object;
    struct column *last = count ? &column->children[count - 1] : NULL;
    object.column = column;
    object.extras = last != NULL && last->node->kind == EXTRAS ? last : NULL;
    object.expected = 0;
    object.unknown.count = 0; /* its names are set as they come */
    if (!take(in, '{') || !take_items(in, '}', take_member, &object))
        return false;
    if (object.extras != NULL && !finish_unknown(object.extras, &object.unknown))
        return false;
    for (int64_t at = 0; at < count; at++) {
        struct column *member = &column->children[at];
        if (member->length == column->length && (member->node->required || !finish_null(member)))
            return false;
    }
    return finish(column, true);
}

static bool take_value(struct cursor *in, struct column *column)
{
    if (*in->at == 'n')
        return column->node->nullable && take_word(in, "null", 4) && finish_null(column);
    switch (column->node->kind) {
    case TEXT:
        return take_text(in, column);
    case INSTANT: case DAY:
        return take_time(in, column);
    case INTEGER:
        return take_whole(in, column);
    case NUMBER:
        return take_double(in, column);
    case BOOLEAN:
        return take_boolean(in, column);
    case JSON:
        return take_json(in, column);
    case LIST:
        return take_list(in, column);
    default:
        return take_object(in, column);
    }
}

/* ---- bodies ---- */

struct events {
    struct column *root;
    int64_t bytes_max, items_max; /* of each */
};

static bool take_event(struct cursor *in, void *to)
{
    const struct events *events = to;
    const char *first = in->at;
    in->event_items = events->items_max;
    return take_object(in, events->root) && in->at - first <= events->bytes_max;
}

static bool take_lines(struct cursor *in, struct events *events)
{
    while (in->at < in->end) {
        skip_blanks(in);
        if (in->at < in->end && *in->at != '\n') {
            if (!take_event(in, events))
                return false;
            skip_blanks(in);
        }
        if (in->at < in->end && !take(in, '\n'))
            return false;
    }
    return true;
}

static bool take_document(struct cursor *in, struct events *events)
{
    skip_blanks(in);
    if (!(take(in, '[') ? take_items(in, ']', take_event, events) : take_event(in, events)))
        return false;
    skip_blanks(in);
    return in->at == in->end;
}

/* ---- leaving by the C data interface: each array owns its buffers and its children ---- */

static void release(struct ArrowArray *array)
{
    for (int64_t at = 0; at < array->n_children; at++) {
        if (array->children[at]->release != NULL)
            array->children[at]->release(array->children[at]);
        free(array->children[at]);
    }
    for (int64_t at = 0; at < array->n_buffers; at++)
        free((void *)array->buffers[at]);
    free(array->children);
    free(array->buffers);
    array->release = NULL;
}

/* Bytes of 0 and 1 to bits, in place. */
static void pack(struct buffer *bytes)
{
    for (size_t at = 0; at < bytes->size; at++) {
        uint8_t bit = (uint8_t)(bytes->at[at] << (at & 7));
        bytes->at[at >> 3] = at & 7 ? bytes->at[at >> 3] | bit : bit;
    }
}

static const void *leave(struct buffer *buffer)
{
    const void *at = buffer->at;
    memset(buffer, 0, sizeof *buffer);
    return at;
}

/* Moves the column's buffers into `array`. On failure both are left to be discarded and released. */
static bool export_column(struct column *column, struct ArrowArray *array)
{
    const struct node *node = column->node;
    memset(array, 0, sizeof *array);
    array->release = release;
    array->length = column->length;
    array->null_count = column->nulls;
    array->buffers = calloc(3, sizeof *array->buffers);
    array->children = calloc((size_t)node->children + 1, sizeof *array->children);
    if (array->buffers == NULL || array->children == NULL)
        return false;
    if (column->nulls)
        pack(&column->valid);
    if (node->kind == BOOLEAN)
        pack(&column->data);
    array->buffers[array->n_buffers++] = column->nulls ? leave(&column->valid) : NULL;
    if (has_offsets(column))
        array->buffers[array->n_buffers++] = leave(&column->offsets);
    if (node->kind != LIST && node->kind != STRUCT)
        array->buffers[array->n_buffers++] = leave(&column->data);
    for (int64_t at = 0; at < node->children; at++) {
        array->children[at] = calloc(1, sizeof **array->children);
        if (array->children[at] == NULL)
            return false;
        array->n_children++;
        if (!export_column(&column->children[at], array->children[at]))
            return false;
    }
    return true;
}

/* Changes with the meaning of what follows, so that a library of another source is not used. */
int64_t eagleray_columnar_version(void)
{
    return 4;
}

/* Where this compiler puts the fields of both structs, and the structs' sizes; ends with -1. fast_path compares it with
 * what it believes before it hands over the first pointer. */
const int64_t *eagleray_columnar_layout(void)
{
#define AT(type, field) (int64_t)offsetof(struct type, field)
    static const int64_t layout[] = {
        AT(node, key), AT(node, key_length), AT(node, texts), AT(node, text_lengths), AT(node, wholes),
        AT(node, allowed), AT(node, least), AT(node, most), AT(node, at_least), AT(node, above), AT(node, at_most),
        AT(node, below), AT(node, first_child), AT(node, children), AT(node, kind), AT(node, nullable),
        AT(node, required), (int64_t)sizeof(struct node),
        AT(ArrowArray, length), AT(ArrowArray, null_count), AT(ArrowArray, offset), AT(ArrowArray, n_buffers),
        AT(ArrowArray, n_children), AT(ArrowArray, buffers), AT(ArrowArray, children), AT(ArrowArray, dictionary),
        AT(ArrowArray, release), AT(ArrowArray, private_data), (int64_t)sizeof(struct ArrowArray),
        -1,
    };
#undef AT
    return layout;
}

/* Reads `count` bodies; `lines` says which are NDJSON, the others are an event or an array of them. `rows` becomes the
 * number of events of each body, or -1 where it was refused; `out` a struct array with a row for each event, in order.
 * False: no memory, and nothing to release. */
bool eagleray_columnar_read(const struct node *nodes, int64_t count, const char *const *bodies, const int64_t *lengths,
                            const uint8_t *lines, int64_t event_bytes_max, int64_t event_items_max,
                            int64_t body_items_max, int64_t *rows, struct ArrowArray *out)
{
    struct column root;
    struct events events = {&root, event_bytes_max, event_items_max};
    bool sound = begin(&root, nodes, nodes);
    for (int64_t at = 0; sound && at < count; at++) {
        struct cursor in = {bodies[at], bodies[at] + lengths[at], lines[at], 0, body_items_max};
        int64_t before = root.length;
        bool taken = (lines[at] ? take_lines : take_document)(&in, &events);
        if (!taken)
            cut(&root, before);
        rows[at] = taken ? root.length - before : -1;
    }
    if (sound && !(sound = export_column(&root, out)))
        release(out);
    discard(&root);
    return sound;
}
